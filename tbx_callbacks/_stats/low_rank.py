"""Computes norms of matrix products from small matrices, without forming the products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tbx_callbacks._stats.norms import accumulation_dtype

_SQUARINGS = 40  # the error of the largest eigenvalue is a factor of rank ** (1 / 2 ** _SQUARINGS)


def product_norms(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Returns the squared Frobenius norm and the squared spectral norm of `b @ a`, for each pair `(a, b)`.

    `a` is `[rank, ...]` and `b` `[outputs, rank, ...]`. With the Gram matrices `A = a a^T` and `B = b^T b`, `[rank,
    rank]`, the first is `tr(A B)` and the second the largest eigenvalue of `A B`. In float64, or float32 on devices
    without it. No host sync. Pairs of one rank and device are computed together.
    """
    by_kind: dict[tuple[torch.device, int], list[int]] = {}
    for index, (a, _) in enumerate(pairs):
        by_kind.setdefault((a.device, a.shape[0]), []).append(index)
    results: dict[int, tuple[Tensor, Tensor]] = {}
    for indices in by_kind.values():
        products = torch.stack([_gram_product(*pairs[index]) for index in indices])
        squares = _traces(products)
        largest, _ = dominant_eigenvalues(products)
        results.update(zip(indices, zip(squares.unbind(), largest.unbind(), strict=True), strict=True))
    return [results[index] for index in range(len(pairs))]


def _gram_product(a: Tensor, b: Tensor) -> Tensor:
    dtype = accumulation_dtype(a.device)
    wide_a = a.detach().reshape(a.shape[0], -1).to(dtype)
    wide_b = b.detach().reshape(b.shape[0], -1).to(a.device, dtype, non_blocking=a.device.type != "cpu")
    return (wide_a @ wide_a.T) @ (wide_b.T @ wide_b)


def dominant_eigenvalues(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the largest eigenvalue of each matrix, `[matrices]`, and a high power of each, divided by its trace.

    All eigenvalues must be real and not negative. For large n the largest one is `tr(M**n) ** (1/n)`. A symmetric
    matrix's power is the projection on its eigenvector. `torch.linalg.eigh` would wait for the device. NaN for zeros.
    """
    whole = traces = _traces(matrices)
    power, logarithm, exponent = matrices / traces[:, None, None], traces.log(), 1.0
    for _ in range(_SQUARINGS):
        power = power @ power
        traces = _traces(power)
        power = power / traces[:, None, None]
        exponent /= 2
        logarithm = logarithm + exponent * traces.log()
    return torch.minimum(logarithm.exp(), whole), power


def _traces(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(1)
