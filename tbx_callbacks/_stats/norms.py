"""Sums of squares and counts of non-finite elements, one number a tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tbx_callbacks._stats import fused
from tbx_callbacks._stats.flat import flat, moved
from tbx_callbacks._stats.threads import Pieces, on_threads

TINY, HUGE = 1e-30, 1e30
"""Between them float32 holds squares; outside, the caller takes float64."""
_ROW = 1 << 10


def sum_of_squares(piece: Tensor) -> float:
    """Of a flat float32 or float64 tensor; infinite or NaN where an element is, or where float32 cannot hold it.

    Norms of short rows, then the squares of those: torch takes the norm of a row in one pass and in many lanes, and a
    row is too short for float32 sums to drift. The norm of a whole tensor is 1e-3 off for 23 M normal numbers, a BLAS
    dot 3e-5 for equal ones (benchmarks/norms.py).
    """
    whole = piece.numel() // _ROW * _ROW
    rows = piece if whole == piece.numel() else piece[:whole]
    norms = torch.linalg.vector_norm(rows.view(-1, _ROW), dim=1)
    square = torch.dot(norms, norms).item()
    if whole < piece.numel():
        square += piece[whole:].square().sum().item()
    return square


# Many small tensors in one call: added up in float32, which is exact enough for so few elements.
_SMALL, _PLAIN = 1 << 12, torch.float32


def square_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of squares of each tensor, `[len(tensors)]`, float64 (float32 where the device has no float64).

    Squares are taken in float32, or in float64 for float64 tensors and (on CPU) where float32 cannot hold them. A
    tensor that holds a NaN or an Inf gives a non-finite number. Empty tensors give 0. The result is on the first
    tensor's device.
    """
    return _per_device(tensors, _square_norms_cpu, _square_norms_device)


def count_nonfinite(tensors: Sequence[Tensor], squares: Tensor) -> Tensor:
    """Number of NaN and Inf elements of each tensor, `[len(tensors)]`.

    `squares` is `square_norms(tensors)`: on CPU a finite square proves that there is nothing to count.
    """
    known = squares.tolist() if squares.device.type == "cpu" else None

    def cpu(chosen: Sequence[Tensor], indices: Sequence[int]) -> Tensor:
        def count(tensor: Tensor, index: int) -> float:
            if known is not None and abs(known[index]) < float("inf"):
                return 0.0
            return float(tensor.numel() - torch.isfinite(tensor).sum().item())

        return torch.tensor([count(t, i) for t, i in zip(chosen, indices, strict=True)], dtype=torch.float64)

    def device(chosen: Sequence[Tensor], indices: Sequence[int]) -> Tensor:  # noqa: ARG001
        return torch.stack([t.numel() - torch.isfinite(t).sum() for t in chosen]).to(_wide(chosen[0].device))

    return _per_device(tensors, cpu, device)


_Kernel = Callable[[Sequence[Tensor], Sequence[int]], Tensor]


def _per_device(tensors: Sequence[Tensor], cpu: _Kernel, device: _Kernel) -> Tensor:
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    indices: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(tensors):
        indices.setdefault(tensor.device, []).append(index)
    home = tensors[0].device
    result = torch.zeros(len(tensors), dtype=_wide(home), device=home)
    for where, chosen in indices.items():
        kernel = cpu if where.type == "cpu" else device
        part = moved(kernel([flat(tensors[index]) for index in chosen], chosen), home).to(result.dtype)
        if len(indices) == 1:
            return part
        result.index_copy_(0, moved(torch.tensor(chosen), home), part)
    return result


def _square_norms_cpu(tensors: Sequence[Tensor], indices: Sequence[int]) -> Tensor:  # noqa: ARG001
    found = torch.zeros(len(tensors), dtype=torch.float64)
    small = [index for index, tensor in enumerate(tensors) if 0 < tensor.numel() <= _SMALL and tensor.dtype == _PLAIN]
    if small:
        norms = torch.stack(torch._foreach_norm([tensors[index] for index in small], 2)).double().square()
        found[small] = norms
    done = set(small)
    careful = [index for index, square in zip(small, found[small].tolist(), strict=True) if not TINY < square < HUGE]
    rest = [*careful, *(index for index in range(len(tensors)) if index not in done)]
    found[rest] = 0
    squares = on_threads(_squares, Pieces([[tensors[index]] for index in rest]))
    for index, _, square in sorted(part for parts in squares for part in parts):  # the same sum whoever took what
        found[rest[index]] += square
    return found


def _squares(pieces: Pieces) -> list[tuple[int, int, float]]:
    found = []
    for index, number, piece in pieces:
        exact = piece if piece.dtype in (torch.float32, torch.float64) else piece.float()
        square = sum_of_squares(exact)
        if not TINY < square < float("inf") and exact.any():
            square = exact.double().square().sum().item()  # float32 cannot hold it, or there is a NaN or an Inf
        found.append((index, number, square))
    return found


def _square_norms_device(tensors: Sequence[Tensor], indices: Sequence[int]) -> Tensor:
    measured = fused.of_each(tensors)
    if measured is not None:
        return measured.square_norms()
    wide = _wide(tensors[0].device)
    kinds = {t.dtype: torch.float32 if t.dtype.itemsize < 4 else t.dtype for t in tensors}
    found: list[Tensor] = [tensors[0]] * len(tensors)
    for kind, dtype in kinds.items():
        indices = [index for index, tensor in enumerate(tensors) if tensor.dtype == kind]
        # not the tensors in another type, which would be a copy of the model
        norms = torch._foreach_norm([tensors[index] for index in indices], 2, dtype=dtype)
        for index, norm in zip(indices, torch.stack(norms).to(wide).square().unbind(), strict=True):
            found[index] = norm
    return torch.stack(found)


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
