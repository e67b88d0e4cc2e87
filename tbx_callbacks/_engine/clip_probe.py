"""Defines `ClipProbe`, which finds out whether gradients were clipped, where the trainer does not report the norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks._model.sharding.dtensor import local_all
from tbx_callbacks._stats.accumulators import add_up
from tbx_callbacks._stats.flat import moved

_NUM_TENSORS, _MAX_ELEMENTS = 8, 2**16
_FEW_ELEMENTS = range(2, 65)
_PRECISE = frozenset({torch.float32, torch.float64})


class ClipProbe:
    """Compares a few small gradients from before clipping with the same ones after it.

    Clipping by norm multiplies all gradients by one factor, which is exactly 1 if nothing is clipped. On the CPU, the
    elements of one short vector are compared, which costs less than norms. If there is none, or if it is all zero, or
    if a loss scale is divided out in between, the norms of the gradients are compared.
    """

    def __init__(self) -> None:
        self._access: ModelAccess | None = None
        self._parameters: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._before: tuple[Tensor, ...] = ()
        self._scale: Tensor | None = None
        self._short: Tensor | None = None  # the parameter whose gradient is compared element by element
        self._vector: Tensor | None = None  # its gradient
        self._elements: list[float] = []
        self.is_pending = False
        """Whether gradients were read and not compared yet."""

    def begin(self, access: ModelAccess, scale: Tensor | None) -> None:
        """Reads the gradients before clipping; `scale` is the loss scale that they still contain."""
        if access is not self._access or not self._parameters:
            self._access, self._parameters = access, _with_small_gradients(access)
            self._short = next(filter(_is_short_vector, self._parameters), None)
        vector = self._short.grad if self._short is not None and scale is None else None
        if vector is not None and not vector.is_sparse:
            elements = vector.tolist()
            if any(elements):
                self._vector, self._elements, self.is_pending = vector, elements, True
                return
        gradients = local_all([parameter.grad for parameter in self._parameters])
        if not gradients or None in [gradient if gradient is None else 0 for gradient in gradients]:
            self._parameters, self.is_pending = [], False  # others have gradients now: chosen in the next step
            return
        self._gradients, self._scale = gradients, scale  # type: ignore[assignment]
        self._before, self.is_pending = torch._foreach_norm(self._gradients), True

    def end(self) -> Tensor | bool:
        """Returns whether the gradients have changed, or their norms before and after, `[2 * gradients]`.

        `count_changed` compares the norms. Causes no host sync.
        """
        if self._vector is not None:
            vector = self._short.grad if self._short is not None else None  # clipping may put a new tensor there
            vector = self._vector if vector is None else vector
            has_changed = vector.tolist() != self._elements  # NaN differs from itself: not known to be the same
            self._vector, self.is_pending = None, False
            return has_changed
        before = self._before
        if self._scale is not None:
            scale = moved(self._scale, before[0].device).to(before[0].dtype)
            before = tuple(norm / scale for norm in before)
        norms = torch.stack((*before, *torch._foreach_norm(self._after())))
        self._gradients, self._before, self.is_pending = [], (), False
        return norms

    def _after(self) -> list[Tensor]:
        """The gradients after clipping, which may be other tensors than those before it."""
        now = local_all([parameter.grad for parameter in self._parameters])
        pairs = zip(now, self._gradients, strict=True)
        return [gradient if gradient is not None else before for gradient, before in pairs]


def count_changed(all_norms: Sequence[Tensor]) -> Tensor:
    """Returns, for norms from `ClipProbe.end`, in how many the gradients had changed; 0-d."""
    by_kind: dict[tuple[torch.device, int], list[Tensor]] = {}
    for norms in all_norms:
        by_kind.setdefault((norms.device, norms.numel()), []).append(norms)
    counts = []
    for (_, number), chosen in by_kind.items():
        before, after = torch.stack(chosen).view(-1, 2, number // 2).unbind(1)
        counts.append((before != after).any(1).sum())
    return add_up(counts)


def _is_short_vector(parameter: Tensor) -> bool:
    """Whether a parameter is a vector of the CPU with few elements, precise enough to show a factor close to 1."""
    is_plain = type(parameter.grad) is Tensor and parameter.is_cpu and parameter.dtype in _PRECISE
    return is_plain and parameter.ndim == 1 and parameter.numel() in _FEW_ELEMENTS


def _with_small_gradients(access: ModelAccess) -> list[Tensor]:
    found: list[Tensor] = []
    tensors = [parameter.tensor for parameter in access.parameters]
    for tensor, gradient in zip(tensors, local_all([tensor.grad for tensor in tensors]), strict=True):
        if gradient is None or gradient.is_sparse or not 0 < gradient.numel() <= _MAX_ELEMENTS:
            continue
        first = found[0].grad if found else gradient
        if first is not None and (gradient.device, gradient.dtype) == (first.device, first.dtype):
            found.append(tensor)
            if len(found) == _NUM_TENSORS:
                break
    return found
