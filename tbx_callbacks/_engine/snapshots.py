"""Takes snapshots before `optimizer.step()`: statistics of unclipped gradients, and copies of weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from tbx_callbacks._engine.metric_plan import MetricRun
from tbx_callbacks._engine.metric_runner import needs_of
from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks._model.optimizers import changes_gradients_itself
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._stats.clip_factor import clip_factor, max_of, ratio_bounds
from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.values import ClipFactor, Max, Value

logger = logging.getLogger(__name__)


class GradientSnapshot:
    """Statistics of one step's gradients before clipping, and the clip factor."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensors] = {}
        """Gradient statistics, by optimizer name."""
        self.factor: Number | None = None
        self.square: Number = 0.0
        self.max_norm: float | None = None
        self.separate = False
        """Whether parts of the gradients are clipped separately."""
        self._ratios: list[Tensor] = []

    def take(
        self,
        access: ModelAccess,
        due: Sequence[MetricRun],
        scale: Tensor | None,
        optimizer: str | None,
        max_norm: float | None,
    ) -> None:
        """Computes the gradient statistics that due metrics need; see `Engine.before_clip`."""
        if self.factor is not None:
            return  # a part of the gradients is clipped already
        names = list(access.parameters_by_optimizer) if optimizer is None else [optimizer]
        several = len(access.parameters_by_optimizer) > 1
        self.separate = self.separate or (several and (bool(self.gradients) or optimizer is not None))
        squares: list[Tensor] = []
        for name in names:
            needs = needs_of(due, name)
            if "before_clip" in needs:  # again: a step that a loss scale skipped may have been captured before
                gradients = access.gradients(name, scale)
                self.gradients[name] = gradients.statistics_only(nonfinite="nonfinite" in needs)
                if not access.partial_gradients(name):
                    squares.append(gradients.squares.sum())
        if max_norm is not None and len(squares) == len(names):  # clipping uses the norm of all these gradients
            total = squares[0]
            for square in squares[1:]:
                total = total + moved(square, total.device)
            self.square, self.max_norm = total, max_norm

    def clip_factor(self) -> Value | None:
        """The clip factor; None if it is unknown."""
        if self.separate:
            return None
        if self.max_norm is not None:
            return ClipFactor(self.square, self.max_norm)
        return None if self.factor is None else Max(self.factor)

    def record_clipping(self, norm: Tensor, max_norm: float) -> None:
        """Records the norm of the gradients and the limit `max_norm`; a second time if they are clipped in parts."""
        self.separate = self.separate or self.factor is not None
        self.factor = clip_factor(norm, max_norm)

    def compare(self, name: str, gradients: Tensors) -> None:
        """Compares the gradients of one optimizer before clipping with those after it, where both are known."""
        before = self.gradients.get(name)
        if before is not None and not self.separate:
            self._ratios += ratio_bounds(before.squares, gradients.squares)

    @property
    def ratios(self) -> tuple[Number, Number] | None:
        """See `Context.clip_ratios`."""
        if not self._ratios:
            return None
        lowest, highest = (max_of(self._ratios[start::2]) for start in (0, 1))
        return lowest, highest


class EnteringGradients:
    """The gradients that enter optimizers' steps. An optimizer may change them during its step.

    On due steps they are held by reference. Copies are only needed for an optimizer that changes gradients in place.
    Optimizers of torch do not. For another one the first due step finds out, by a comparison with copies.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[list[Tensor | None], list[int], list[Tensor | None] | None]] = {}
        self._changes: dict[type, bool] = {}  # whether optimizers of a class change gradients; unknown if absent
        self._warned = False

    def hold(self, access: ModelAccess, name: str, *, copies: bool) -> None:
        """Holds the gradients with which the step of optimizer `name` begins.

        With `copies`, also copies of them where the step may change them.
        """
        optimizer = access.optimizers[name]
        if access.sharding.frees_gradients or changes_gradients_itself(optimizer):
            return
        gradients = access.gradient_elements(name)
        copied = None
        if copies and self._changes.get(type(optimizer), not _is_from_torch(optimizer)):
            copied = [None if gradient is None else gradient.detach().clone() for gradient in gradients]
        self._held[name] = gradients, _versions(gradients), copied

    def pop(self, access: ModelAccess, name: str) -> list[Tensor | None] | None:
        """Returns the gradients that entered the step of optimizer `name`; None if the step has changed them."""
        if name not in self._held:
            return access.gradient_elements(name)
        gradients, versions, copies = self._held.pop(name)
        kind = type(access.optimizers[name])
        changed = _versions(gradients) != versions
        if copies is not None and kind not in self._changes:
            self._changes[kind] = changed or not all(map(_equal, gradients, copies))
        if copies is not None:
            return copies if self._changes[kind] else gradients
        if changed:
            self._changes[kind] = True
            if not self._warned:
                self._warned = True
                logger.warning(
                    "metrics of gradients are skipped at one step: %s changed the gradients during its step; later"
                    " points use copies",
                    kind.__name__,
                )
        return None if changed else gradients

    def clear(self) -> None:
        """Drops the gradients of a step that raised."""
        self._held.clear()


def _is_from_torch(optimizer: torch.optim.Optimizer) -> bool:
    return type(optimizer).__module__.startswith("torch.optim.")


def _versions(tensors: Sequence[Tensor | None]) -> list[int]:
    return [-1 if tensor is None else tensor._version for tensor in tensors]


def _equal(tensor: Tensor | None, copy: Tensor | None) -> bool:
    if tensor is None or copy is None or tensor.is_sparse:
        return tensor is copy
    return torch.equal(tensor, copy)


class WeightSnapshot:
    """Copies of weights, from just before an optimizer's step until the updates have been computed.

    Only weights that require gradients and that a due metric compares are copied. Memory: one copy of them. Half
    precision is copied as float32, where the difference of two such weights is exact except for its last bits.
    """

    def __init__(self) -> None:
        self._copies: dict[str, dict[int, Tensor]] = {}

    def take(self, access: ModelAccess, due: Sequence[MetricRun], name: str, *, closure: bool) -> None:
        """Copies the weights that optimizer `name` may change. With a closure, gradients do not exist yet."""
        indices = {
            index
            for metric_run in due
            if metric_run.optimizer == name and "weights_before" in metric_run.spec.metric.needs
            for group in metric_run.selection.groups
            for index in group.members
            if access.is_local(index)
        }
        # A frozen parameter that has a gradient is updated too.
        with_gradient = zip(sorted(indices), access.have_gradients(sorted(indices)), strict=True)
        trained = [
            index
            for index, found in with_gradient
            if found or (closure and access.parameters[index].tensor.requires_grad)
        ]
        self._copies[name] = {
            index: current.to(_copy_dtype(current.dtype), copy=True)
            for index, current in zip(trained, access.weights_at(trained), strict=True)
            if current is not None
        }

    def updates(
        self,
        access: ModelAccess,
        name: str,
        skipped: Tensor | None,
        entered: Sequence[Tensor | None] | None = None,
    ) -> Tensors | None:
        """New minus old weights, in the memory of the copies; None if `take` was not called.

        Weights without a gradient are left out, because the optimizer does not touch them. `skipped` is nonzero if the
        step did nothing. The updates are then NaN instead of zero, so that no statistic includes them. `entered` holds
        the gradients that entered the step, which may have cleared them since.
        """
        copies = self._copies.pop(name, None)
        if copies is None:
            return None
        updates: list[Tensor | None] = [None] * len(access.parameters)
        indices = list(copies)
        if not access.sharding.frees_gradients:
            now = access.have_gradients(indices)
            indices = [
                index
                for index, found in zip(indices, now, strict=True)
                if found or (entered and entered[index] is not None)
            ]
        for index, current in zip(indices, access.weights_at(indices), strict=True):
            if current is None:
                continue
            old = copies[index]
            torch.sub(current, old, out=old)
            if skipped is not None:
                nan_if_skipped = torch.zeros_like(skipped).masked_fill_(skipped != 0, torch.nan)
                old.add_(moved(nan_if_skipped, old.device).to(old.dtype))
            updates[index] = old
        return Tensors(updates)

    def clear(self) -> None:
        """Drops the copies of a step that raised."""
        self._copies.clear()


def _copy_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype
