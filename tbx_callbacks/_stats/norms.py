"""Computes sums of squares and counts of non-finite elements, one number per tensor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tbx_callbacks._stats import fused_moments as fused
from tbx_callbacks._stats.flat import flat_all, moved
from tbx_callbacks._stats.threads import Pieces, on_threads

TINY, HUGE = 1e-30, 1e30
"""Bounds within which float32 can represent sums of squares; outside, the caller uses float64."""
_ROW = 1 << 10


def sum_of_squares(piece: Tensor) -> float:
    """Returns the sum of squares of a flat float32 or float64 tensor.

    The result is infinite or NaN if an element is, or if float32 cannot represent it. It first computes norms of short
    rows, then sums their squares. Torch computes the norm of a row in one pass with many lanes, and a row is too short
    for float32 sums to drift. The norm of a full tensor has an error of 1e-3 for 23 M normal numbers, and a BLAS dot
    3e-5 for equal numbers (benchmarks/norms.py).
    """
    aligned = piece.numel() // _ROW * _ROW
    rows = piece if aligned == piece.numel() else piece[:aligned]
    norms = torch.linalg.vector_norm(rows.view(-1, _ROW), dim=1)
    square = torch.dot(norms, norms).item()
    if aligned < piece.numel():
        square += piece[aligned:].square().sum().item()
    return square


# Many small tensors are summed in one call in float32, which is accurate enough for so few elements.
_SMALL, _PLAIN = 1 << 12, torch.float32


def square_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the sum of squares of each tensor, `[len(tensors)]`, float64 (float32 on devices without float64).

    Squares are computed in float32, or in float64 for float64 tensors and (on CPU) if float32 cannot represent them.
    The result is non-finite for a tensor with NaN or Inf, and 0 for an empty tensor. It is on the device of the first
    tensor.
    """
    return _per_device(tensors, _square_norms_cpu, _square_norms_device)


def count_nonfinite(tensors: Sequence[Tensor], squares: Tensor) -> Tensor:
    """Returns the number of NaN and Inf elements of each tensor, `[len(tensors)]`.

    `squares` is `square_norms(tensors)`: on CPU a finite square proves that there are none, so counting is skipped.
    """
    known_squares = squares.tolist() if squares.device.type == "cpu" else None

    def cpu(chosen: Sequence[Tensor], indices: Sequence[int]) -> Tensor:
        counts = torch.zeros(len(chosen), dtype=torch.float64)
        for position, (tensor, index) in enumerate(zip(chosen, indices, strict=True)):
            if known_squares is None or not abs(known_squares[index]) < math.inf:
                counts[position] = tensor.numel() - torch.isfinite(tensor).sum()
        return counts

    def device(chosen: Sequence[Tensor], indices: Sequence[int]) -> Tensor:  # noqa: ARG001
        return torch.stack([t.numel() - torch.isfinite(t).sum() for t in chosen]).to(
            accumulation_dtype(chosen[0].device)
        )

    return _per_device(tensors, cpu, device)


_Kernel = Callable[[Sequence[Tensor], Sequence[int]], Tensor]


def _per_device(tensors: Sequence[Tensor], cpu: _Kernel, device: _Kernel) -> Tensor:
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    indices: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(tensors):
        indices.setdefault(tensor.device, []).append(index)
    target_device = tensors[0].device
    result = torch.zeros(len(tensors), dtype=accumulation_dtype(target_device), device=target_device)
    for source_device, chosen in indices.items():
        kernel = cpu if source_device.type == "cpu" else device
        part = moved(kernel(flat_all([tensors[index] for index in chosen]), chosen), target_device).to(result.dtype)
        if len(indices) == 1:
            return part
        result.index_copy_(0, moved(torch.tensor(chosen), target_device), part)
    return result


def _square_norms_cpu(tensors: Sequence[Tensor], indices: Sequence[int]) -> Tensor:  # noqa: ARG001
    result = torch.zeros(len(tensors), dtype=torch.float64)
    small = [index for index, tensor in enumerate(tensors) if 0 < tensor.numel() <= _SMALL and tensor.dtype == _PLAIN]
    if small:
        norms = torch.stack(torch._foreach_norm([tensors[index] for index in small], 2)).double().square()
        result[small] = norms
    small_set = set(small)
    extreme = [index for index, square in zip(small, result[small].tolist(), strict=True) if not TINY < square < HUGE]
    rest = extreme + [index for index in range(len(tensors)) if index not in small_set]
    result[rest] = 0
    squares = on_threads(_squares, Pieces([[tensors[index]] for index in rest]))
    # Sorted, so that the sum does not depend on which thread computed which piece.
    for index, _, square in sorted(itertools.chain.from_iterable(squares)):
        result[rest[index]] += square
    return result


def _squares(pieces: Pieces) -> list[tuple[int, int, float]]:
    parts_of_tensors = []
    for index, number, piece in pieces:
        exact = piece if piece.dtype in (torch.float32, torch.float64) else piece.float()
        square = sum_of_squares(exact)
        if not TINY < square < float("inf") and exact.any():
            square = exact.double().square().sum().item()  # float32 cannot represent it, or there is NaN or Inf
        parts_of_tensors.append((index, number, square))
    return parts_of_tensors


def _square_norms_device(tensors: Sequence[Tensor], indices: Sequence[int]) -> Tensor:
    moments = fused.tensor_moments(tensors)
    if moments is not None:
        return moments.square_norms()
    result_dtype = accumulation_dtype(tensors[0].device)
    kinds = {t.dtype: torch.float32 if t.dtype.itemsize < 4 else t.dtype for t in tensors}
    squares: list[Tensor] = [tensors[0]] * len(tensors)
    for kind, dtype in kinds.items():
        indices = [index for index, tensor in enumerate(tensors) if tensor.dtype == kind]
        # `dtype` converts inside the kernel; converted tensors would be a copy of the model
        norms = torch._foreach_norm([tensors[index] for index in indices], 2, dtype=dtype)
        for index, norm in zip(indices, torch.stack(norms).to(result_dtype).square().unbind(), strict=True):
            squares[index] = norm
    return torch.stack(squares)


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Returns float64, or float32 on devices without float64."""
    return torch.float32 if device.type == "mps" else torch.float64
