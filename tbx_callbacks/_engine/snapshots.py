"""What is looked at before an optimizer's step: gradients before they are clipped, and the weights it will change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tbx_callbacks._engine.plan import MetricRun
from tbx_callbacks._engine.runner import needs_of
from tbx_callbacks._model.access import ModelAccess
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._stats.clipping import clip_factor
from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.values import ClipFactor, Max, Value


class GradientSnapshot:
    """The gradients of one step before they are clipped, and what clipping multiplies them by."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensors] = {}
        """Their statistics, by the optimizer's name."""
        self.factor: Number | None = None
        self.square: Number = 0.0
        self.max_norm: float | None = None

    def take(
        self,
        access: ModelAccess,
        due: Sequence[MetricRun],
        scale: Tensor | None,
        optimizer: str | None,
        max_norm: float | None,
    ) -> None:
        """Takes the gradients' statistics where a due metric needs them; see `Engine.before_clip`."""
        for name in access.parameters_by_optimizer if optimizer is None else (optimizer,):
            needs = needs_of(due, name)
            if "before_clip" in needs and name not in self.gradients:
                gradients = access.gradients(name, scale)
                self.gradients[name] = gradients.statistics_only(nonfinite="nonfinite" in needs)
                if max_norm is not None and not access.partial_gradients(name):
                    self.square, self.max_norm = gradients.squares.sum(), max_norm

    def clip_factor(self) -> Value | None:
        """The clip factor; None when nobody has told it."""
        if self.max_norm is not None:
            return ClipFactor(self.square, self.max_norm)
        return None if self.factor is None else Max(self.factor)

    def record_clipping(self, norm: Tensor, max_norm: float) -> None:
        """The gradients have this norm and are clipped to `max_norm`; see torch.nn.utils.clip_grad_norm_ for 1e-6."""
        self.factor = clip_factor(norm, max_norm)


class WeightSnapshot:
    """Copies of weights, from just before an optimizer's step until their change has been measured.

    Only those that a due metric compares with are copied, and none that takes no gradient. Memory: one copy of them;
    half precision is copied as float32, in which the difference of two such weights is exact but for its last bits.
    """

    def __init__(self) -> None:
        self._copies: dict[str, dict[int, Tensor]] = {}

    def take(self, access: ModelAccess, due: Sequence[MetricRun], name: str, *, closure: bool) -> None:
        """Copies what the optimizer called `name` may change; with a closure gradients are not there yet."""
        indices = {
            index
            for metric_run in due
            if metric_run.optimizer == name and "weights_before" in metric_run.spec.metric.needs
            for group in metric_run.selection.groups
            for index in group.members
            if access.is_local(index)
        }
        self._copies[name] = {
            index: here.to(_exact(here.dtype), copy=True)
            for index in sorted(indices)
            if access.parameters[index].tensor.requires_grad
            and (closure or access.has_gradient(index))
            and (here := access.weight(index)) is not None
        }

    def updates(self, access: ModelAccess, name: str, skipped: Tensor | None) -> Tensors | None:
        """New weights less old ones, in the memory of the copies; None when nothing was copied.

        Weights without a gradient are left out, since the optimizer passes them over. `skipped` is not 0 when the step
        did nothing at all: the updates are then NaN, not zeros, so that no statistic is made of them.
        """
        copies = self._copies.pop(name, None)
        if not copies:
            return None
        updates: list[Tensor | None] = [None] * len(access.parameters)
        for index, old in copies.items():
            here = access.weight(index)
            if here is None or (access.deepspeed is None and not access.has_gradient(index)):
                continue
            torch.sub(here, old, out=old)
            if skipped is not None:
                nothing = torch.zeros_like(skipped).masked_fill_(skipped != 0, torch.nan)
                old.add_(moved(nothing, old.device).to(old.dtype))
            updates[index] = old
        return Tensors(updates)

    def clear(self) -> None:
        """Forgets what is left of a step that raised."""
        self._copies.clear()


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype
