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
from tbx_callbacks._stats.host_copy import HostCopy
from tbx_callbacks._stats.singular_values import largest_singular_values
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Part, Value
from tbx_callbacks.tags import SPECTRAL_NORM, SPECTRAL_STABLE_RANK


@dataclass(frozen=True)
class GroupNorm(Value):
    """The largest of several singular values; left out while one of them may be too low."""

    largest: Part
    is_low: Part

    def maxes(self) -> tuple[Part, ...]:
        return (self.largest, self.is_low)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return None if maxes[1] else maxes[0]


@dataclass(frozen=True)
class GroupStableRank(Value):
    """Sum of the squares of several matrices, divided by the largest squared singular value.

    Left out for zeros, and while a singular value may be too low.
    """

    square: Part
    largest: Part
    is_low: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.square,)

    def maxes(self) -> tuple[Part, ...]:
        return (self.largest, self.is_low)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return sums[0] / maxes[0] if maxes[0] and not maxes[1] else None


class _Settled:
    """Whether the power iterations of a point have settled; known when the numbers have reached the host."""

    def __init__(self, flags: Sequence[Tensor]) -> None:
        self._copy = HostCopy([flag.float() for flag in flags])

    def __getitem__(self, index: int) -> bool:
        return not self._copy.is_ready or bool(self._copy.read()[index][0])


@dataclass(frozen=True)
class _Kept:
    """The last result for one parameter."""

    tensor: weakref.ref[nn.Parameter]
    direction: Tensor
    settled: _Settled
    index: int


@dataclass(frozen=True)
class Spectral(Metric):
    """Largest singular value of the weight matrices, and their stable rank.

    `spectral/norm` is `s_1`, and `spectral/stable_rank` is `sum(w**2) / s_1**2`, from 1 to the rank; Miyato et al. 2018
    (arXiv:1802.05957), Rudelson and Vershynin 2007 (arXiv:math/0503442). Weights with more dimensions are reshaped to
    `[out, -1]`; vectors have no part. A group of several matrices counts as one block-diagonal matrix: `s_1` is their
    largest.

    `s_1` comes from a power iteration that goes on from point to point, with the best value within its directions. It
    is a lower bound: `first` iterations at the first point, then `iterations`. While the last iteration changes
    `s_1**2` by more than a thousandth, as for weights that are set anew, the group is left out, and the next point has
    `first` iterations again. Each one is two passes over the weights, in float32 for 16-bit weights. Starts depend on
    the parameter's name, and not on a random generator of the training.

    Each rank computes the weights that it counts. Left out where ranks hold shards. Cost: two passes over the weights
    for each iteration, with one more copy of a parameter in 16 bits: give it an `every` of its own.
    """

    iterations: int = 4
    """Iterations at each later point."""
    first: int = 24
    """Iterations at the first point, and after points whose value was not settled."""

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
        low: dict[int, Tensor] = {}
        indices: list[int] = []
        for index in (index for group in context.selection.groups for index in group.members):
            weight, parameter = context.weights[index], context.parameters[index]
            if weight is None or weight.dim() < 2 or not weight.numel() or weight.is_complex():
                continue
            present[index] = True
            indices.append(index)
            old.append((parameter, weight, _still_valid(context.state.get(parameter.name), parameter.tensor, weight)))
        results = largest_singular_values(self._work(old))
        if not results:
            return {}
        settled = _Settled([result.is_settled for result in results])
        for number, (index, (parameter, _, _), result) in enumerate(zip(indices, old, results, strict=True)):
            largest[index], low[index] = result.square, result.is_low.to(result.square.dtype)
            kept = _Kept(weakref.ref(parameter.tensor), result.direction, settled, number)
            context.state[parameter.name] = kept
        numbers = _scattered(largest, len(present))
        maxima = context.selection.maxima(numbers, present)
        squares = context.selection.sums(context.weights.squares_where(present), present)
        norms = context.selection.maxima(numbers.sqrt(), present)
        is_low = context.selection.maxima(_scattered(low, len(present)), present)
        return {
            f"{SPECTRAL_NORM}/{{group}}": GroupNorm(norms, is_low),
            f"{SPECTRAL_STABLE_RANK}/{{group}}": GroupStableRank(squares, maxima, is_low),
        }

    def _work(self, old: Sequence[tuple[Parameter, Tensor, _Kept | None]]) -> Iterator[tuple[Tensor, Tensor, int]]:
        for parameter, weight, kept in old:
            if kept is None:
                yield _matrix(weight), _start(parameter.name, weight), self.first
            else:
                iterations = self.iterations if kept.settled[kept.index] else max(self.first, self.iterations)
                yield _matrix(weight), kept.direction, iterations


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
