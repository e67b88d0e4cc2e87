"""Estimates the largest singular value of matrices by power iteration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tbx_callbacks._stats.low_rank import dominant_eigenvalues
from tbx_callbacks._stats.norms import accumulation_dtype

_SETTLED = 1e-3  # change of the square; the value itself is then within about a quarter of a percent


class Iterated:
    """The directions of a power iteration of one matrix, and what the matrix makes of them.

    Args:
        matrix: `[rows, columns]`, float32 or float64.
        start: the first direction, `[columns]`.
        iterations: number of iterations; each one multiplies with the matrix and with its transpose.
    """

    def __init__(self, matrix: Tensor, start: Tensor, iterations: int) -> None:
        self._start = _normalized(start.to(matrix.dtype))
        directions, images = self._start[None], []
        count = min(iterations, matrix.shape[0] + 1, matrix.shape[1])
        for index in range(count):
            image = matrix @ directions[index]
            images.append(image)
            if index + 1 < count:
                directions = torch.cat([directions, _next(directions, matrix.T @ _normalized(image))[None]])
        self._directions = directions
        wide = torch.stack(images).to(accumulation_dtype(matrix.device))
        self.gram = torch.nn.functional.pad(wide @ wide.T, (0, iterations - count, 0, iterations - count))
        """Inner products of the images, `[iterations, iterations]`, with zeros where the matrix is smaller."""

    def next_start(self, power: Tensor) -> Tensor:
        """Returns the best direction; the old one if there is none, as for a matrix of zeros.

        `power` is the projection on the eigenvector of `gram`.
        """
        column = power.index_select(1, power.diagonal().argmax().reshape(1))[: len(self._directions), 0]
        best = _normalized(column.to(self._directions.dtype) @ self._directions)
        is_usable = torch.isfinite(best).all() & (best != 0).any()
        return torch.where(is_usable, best, self._start)


@dataclass(frozen=True)
class Largest:
    """The largest singular value of a matrix."""

    square: Tensor
    """Its square, 0-d."""
    direction: Tensor
    """The direction to start with the next time."""
    is_settled: Tensor
    """Whether the last iteration changed the square by less than a thousandth, 0-d; never so for zeros and NaN."""
    is_low: Tensor
    """Whether it changed by more: the value may be too low."""


def largest_singular_values(work: Iterable[tuple[Tensor, Tensor, int]]) -> list[Largest]:
    """Returns the largest singular value of each matrix.

    `work` has the arguments of `Iterated` for each matrix. Of an iterator, only one matrix is in use at a time.

    The value is the largest one within all directions of the power iteration (the method of Lanczos), so it is at
    least that of the last direction alone, and never above the true one but for rounding. No host sync. A matrix of
    zeros has 0. One iteration alone counts as settled.
    """
    runs = [Iterated(*arguments) for arguments in work]
    by_kind: dict[tuple[torch.device, int], list[int]] = {}
    for index, run in enumerate(runs):
        by_kind.setdefault((run.gram.device, len(run.gram)), []).append(index)
    results: dict[int, Largest] = {}
    for indices in by_kind.values():
        grams = torch.stack([runs[index].gram for index in indices])
        values, powers = dominant_eigenvalues(grams)
        before = dominant_eigenvalues(grams[:, :-1, :-1])[0] if grams.shape[1] > 1 else values
        is_zero = grams.diagonal(dim1=1, dim2=2).sum(1) == 0
        changes = (values - before) / values
        is_settled, is_low = (changes <= _SETTLED) & ~is_zero, (changes > _SETTLED) & ~is_zero
        values = values.masked_fill(is_zero, 0.0)
        for number, index in enumerate(indices):
            direction = runs[index].next_start(powers[number])
            results[index] = Largest(values[number], direction, is_settled[number], is_low[number])
    return [results[index] for index in range(len(runs))]


def _next(directions: Tensor, vector: Tensor) -> Tensor:
    """Returns the part of a vector that is orthogonal to all directions, normalized; zeros if it is a rounding error.

    The first pass leaves rounding errors of the directions. If the second one takes away much, nothing else was left.
    """
    vector = _normalized(vector)
    for least in (100 * torch.finfo(vector.dtype).eps, 0.5):
        rest = vector - directions.T @ (directions @ vector)
        vector = torch.where(torch.linalg.vector_norm(rest) < least, torch.zeros_like(rest), _normalized(rest))
    return vector


def _normalized(vector: Tensor) -> Tensor:
    tiny = torch.finfo(vector.dtype).tiny
    largest = vector.abs().amax().clamp(min=tiny)
    scaled = vector / largest  # its squares neither overflow nor vanish
    norm: Tensor = torch.linalg.vector_norm(scaled)
    return scaled / norm.clamp(min=tiny)
