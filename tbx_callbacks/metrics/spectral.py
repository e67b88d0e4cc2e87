"""Defines the metric of the singular values of weight matrices."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tbx_callbacks._model.parameters import Parameter, Select
from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.singular_values import largest_singular_values
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Max, Part, Value
from tbx_callbacks.tags import SPECTRAL_NORM, SPECTRAL_STABLE_RANK


@dataclass(frozen=True)
class GroupStableRank(Value):
    """Sum of the squares of several matrices, divided by the largest squared singular value; left out for zeros."""

    square: Part
    largest: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.square,)

    def maxes(self) -> tuple[Part, ...]:
        return (self.largest,)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return sums[0] / maxes[0] if maxes[0] else None


@dataclass(frozen=True)
class _Kept:
    """The last result for one parameter."""

    tensor: weakref.ref[nn.Parameter]
    direction: Tensor


@dataclass(frozen=True)
class Spectral(Metric):
    """Largest singular value of the weight matrices, and their stable rank.

    `spectral/norm` is `s_1`, and `spectral/stable_rank` is `sum(w**2) / s_1**2`, from 1 to the rank; Miyato et al. 2018
    (arXiv:1802.05957), Rudelson and Vershynin 2007 (arXiv:math/0503442). Weights with more dimensions are reshaped to
    `[out, -1]`; vectors have no part. A group of several matrices counts as one block-diagonal matrix: `s_1` is their
    largest.

    `s_1` comes from a power iteration that goes on from point to point, with the best value within its directions. It
    is a lower bound: `first` iterations at the first point, then `iterations`. Each one is two passes over the weights,
    in float32 for 16-bit weights. Starts depend on the parameter's name, and not on a random generator of the training.

    Each rank computes the weights that it counts. Left out where ranks hold shards. Cost: two passes over the weights
    for each iteration, with one more copy of a parameter in 16 bits: give it an `every` of its own.
    """

    iterations: int = 4
    """Iterations at each later point."""
    first: int = 24
    """Iterations at the first point."""

    tags: ClassVar[Mapping[str, str]] = {f"{SPECTRAL_NORM}/{{group}}": "", f"{SPECTRAL_STABLE_RANK}/{{group}}": ""}
    needs: ClassVar[frozenset[str]] = frozenset({"whole_weights"})
    select: ClassVar[Select | None] = Select(by="module")
    cost: ClassVar[str] = "eight passes over the weights, 48 at the first point"

    def __post_init__(self) -> None:
        for name in ("iterations", "first"):
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                usual = type(self).__dataclass_fields__[name].default
                raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}; the default is {usual}")

    def __call__(self, context: Context) -> Values:
        present = [False] * len(context.parameters)
        old: list[tuple[Parameter, Tensor, _Kept | None]] = []
        largest: dict[int, Tensor] = {}
        indices: list[int] = []
        for index in (index for group in context.selection.groups for index in group.members):
            weight, parameter = context.weights[index], context.parameters[index]
            if weight is None or weight.dim() < 2 or not weight.numel() or weight.is_complex():
                continue
            present[index] = True
            indices.append(index)
            old.append((parameter, weight, _still_valid(context.state.get(parameter.name), parameter.tensor, weight)))
        results = largest_singular_values(self._work(old))
        for index, (parameter, _, _), (square, direction) in zip(indices, old, results, strict=True):
            largest[index] = square
            context.state[parameter.name] = _Kept(weakref.ref(parameter.tensor), direction)
        if not largest:
            return {}
        numbers = _scattered(largest, len(present))
        maxima = context.selection.maxima(numbers, present)
        squares = context.selection.sums(context.weights.squares_where(present), present)
        norms = context.selection.maxima(numbers.sqrt(), present)
        return {
            f"{SPECTRAL_NORM}/{{group}}": Max(norms),
            f"{SPECTRAL_STABLE_RANK}/{{group}}": GroupStableRank(squares, maxima),
        }

    def _work(self, old: Sequence[tuple[Parameter, Tensor, _Kept | None]]) -> Iterator[tuple[Tensor, Tensor, int]]:
        for parameter, weight, kept in old:
            if kept is None:
                yield _matrix(weight), _start(parameter.name, weight), self.first
            else:
                yield _matrix(weight), kept.direction, self.iterations


def _still_valid(kept: _Kept | None, tensor: Tensor, weight: Tensor) -> _Kept | None:
    """Returns the last result, unless the parameter has been replaced or resized since."""
    if kept is None or kept.tensor() is not tensor or len(kept.direction) != weight[0].numel():
        return None
    return kept


def _matrix(weight: Tensor) -> Tensor:
    matrix = weight.reshape(len(weight), -1)
    return matrix.float() if matrix.dtype.itemsize < 4 else matrix


def _start(name: str, weight: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return moved(torch.randn(weight[0].numel(), generator=generator), weight.device)


def _scattered(numbers: Mapping[int, Tensor], size: int) -> Tensor:
    """Returns the numbers at their indices, `[size]`, on the device of the first one."""
    device = next(iter(numbers.values())).device
    stacked = torch.stack([moved(number, device) for number in numbers.values()])
    return stacked.new_zeros(size).index_copy_(0, moved(torch.tensor([*numbers]), device), stacked)
