"""Notices weights that change between two steps of their optimizer."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbx_callbacks._wiring.check import Check

_MAX_WATCHED, _MAX_ELEMENTS = 12, 4096
_version = operator.attrgetter("_version")


class OutsideChanges:
    """Compares some weights before a step with those after the step before.

    In-place changes raise a tensor's version. On the CPU, the elements of one small parameter are compared too: changes
    through `.data` have no version, and weights that were exchanged for an evaluation and put back have not changed.

    `weights_changed_outside` is the share of steps since the last point before which weights had changed.
    """

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._inside: set[str] = set()  # optimizers whose step is in progress: one may call the step of its base class
        self._steps = self._changed = 0
        self._first = ""

    def before_step(self, name: str, step: int) -> None:
        """An optimizer's step begins."""
        watched = self._watched.get(name)
        if watched is None or name in self._inside:
            return
        self._inside.add(name)
        self._steps += 1
        versions = list(map(_version, watched.tensors))
        bits = watched.bits if watched.array is None else watched.array.tobytes()
        if (versions != watched.versions or bits != watched.bits) and watched.has_changed(versions, bits):
            self._changed += 1
            self._first = self._first or f"between steps {step - 1} and {step}"

    def after_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer's step has ended."""
        self._inside.discard(name)
        watched = self._watched.get(name)
        if watched is None:
            watched = _Watched(_spread(optimizer))
            ids = set(map(id, watched.tensors))
            for other, known in self._watched.items():
                if not ids.isdisjoint(map(id, known.tensors)):
                    watched.sharing.append(other)
                    known.sharing.append(name)
            self._watched[name] = watched
        watched.versions = list(map(_version, watched.tensors))
        if watched.array is not None:
            watched.bits = watched.array.tobytes()
        for other in watched.sharing:
            self._watched[other].update()

    def forget(self) -> None:
        """Begins again: the model or an optimizer has changed."""
        self._watched.clear()

    def take(self) -> dict[str, Check]:
        """Returns the check for the steps since the last call."""
        if not self._steps:
            return {}
        share, details = self._changed / self._steps, self._first
        self._steps, self._changed, self._first = 0, 0, ""
        return {"weights_changed_outside": Check(share, details)}


class _Watched:
    """Some parameters of one optimizer, as they were after its last step."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.versions: list[int] = []
        self.array: NDArray[np.uint8] | None = None
        """The memory of the last one, if it is quick to compare. An array costs less to read than a tensor."""
        if tensors and _is_quick_to_compare(tensors[-1]):
            self.array = tensors[-1].detach().view(-1).view(torch.uint8).numpy()
        self.bits = b""
        """Its contents."""
        self.sharing: list[str] = []
        """Other optimizers that have some of these parameters too."""

    def update(self) -> None:
        """Keeps what the parameters are now."""
        self.versions = list(map(_version, self.tensors))
        if self.array is not None:
            self.bits = self.array.tobytes()

    def has_changed(self, versions: list[int], bits: bytes) -> bool:
        """Whether the weights have changed, by what they are now."""
        if self.array is None:
            return versions != self.versions
        if bits != self.bits and _is_clear(bits, self.bits, self.tensors[-1].dtype):
            return True
        # The small one may be left alone where others change; one that was put back has another version.
        return versions != self.versions and versions[-1] == self.versions[-1]


def _is_clear(now: bytes, before: bytes, dtype: torch.dtype) -> bool:
    """Whether elements changed by more than rounding.

    Some optimizers move the weights and move them back.
    """
    one, other = (torch.frombuffer(bytearray(bits), dtype=dtype) for bits in (now, before))
    tolerance = 8 * torch.finfo(dtype).eps
    largest = float(other.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return not torch.allclose(one, other, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


def _is_quick_to_compare(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.numel() <= _MAX_ELEMENTS and tensor.is_contiguous()


def _spread(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Returns parameters from all over the optimizer; the last one is the smallest that has some elements."""
    plain: Sequence[Tensor] = [
        tensor
        for group in optimizer.param_groups
        for tensor in group["params"]
        if type(tensor) in (Tensor, torch.nn.Parameter) and tensor.numel()
    ]
    if not plain:
        return []
    stride = -(-len(plain) // _MAX_WATCHED)
    smallest = min(plain, key=lambda tensor: (tensor.numel() < 2, tensor.numel()))
    return [*(tensor for tensor in plain[::stride] if tensor is not smallest), smallest]
