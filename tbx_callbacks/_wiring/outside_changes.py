"""Notices weights that change between two steps of their optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbx_callbacks._wiring.check import Check

_MAX_WATCHED, _MAX_ELEMENTS = 12, 4096


class OutsideChanges:
    """Compares some weights before a step with those after the step before.

    In-place changes raise a tensor's version. On the CPU, the elements of one small parameter are compared too: changes
    through `.data` have no version, and weights that were exchanged for an evaluation and put back have not changed.

    `weights_changed_outside` is the share of steps since the last point before which weights had changed.
    """

    def __init__(self) -> None:
        self._watched: dict[str, tuple[list[Tensor], list[int]]] = {}
        self._small: dict[str, tuple[NDArray[np.uint8], bytes]] = {}  # an array costs less to read than a tensor
        self._sharing: dict[str, list[str]] = {}  # optimizers that share a watched parameter
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
        tensors, versions = watched
        now = [tensor._version for tensor in tensors]
        small = self._small.get(name)
        if small is not None:
            bits, before = small[0].tobytes(), small[1]
            changed = bits != before and _is_clear(bits, before, tensors[-1].dtype)
            # The small one may be left alone where others change; one that was put back has another version.
            changed |= now != versions and now[-1] == versions[-1]
        else:
            changed = now != versions
        if changed:
            self._changed += 1
            self._first = self._first or f"between steps {step - 1} and {step}"

    def after_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer's step has ended."""
        self._inside.discard(name)
        watched = self._watched.get(name)
        if watched is None:
            watched = self._watched[name] = _spread(optimizer), []
            smallest = watched[0][-1] if watched[0] else None
            if smallest is not None and _is_quick_to_compare(smallest):
                self._small[name] = smallest.detach().view(-1).view(torch.uint8).numpy(), b""
            ids = set(map(id, watched[0]))
            others = [other for other, (tensors, _) in self._watched.items() if not ids.isdisjoint(map(id, tensors))]
            sharing = list(dict.fromkeys([name, *others]))
            self._sharing.update({other: sharing for other in sharing})
        for other in self._sharing[name]:  # usually this one alone
            tensors = self._watched[other][0]
            self._watched[other] = tensors, [tensor._version for tensor in tensors]
            if other in self._small:
                array = self._small[other][0]
                self._small[other] = array, array.tobytes()

    def forget(self) -> None:
        """Begins again: the model or an optimizer has changed."""
        self._watched.clear()
        self._small.clear()
        self._sharing.clear()

    def take(self) -> dict[str, Check]:
        """Returns the check for the steps since the last call."""
        if not self._steps:
            return {}
        share, details = self._changed / self._steps, self._first
        self._steps, self._changed, self._first = 0, 0, ""
        return {"weights_changed_outside": Check(share, details)}


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
