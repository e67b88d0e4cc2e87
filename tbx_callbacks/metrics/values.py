"""Defines the values that metrics return, which can be merged over ranks.

A value lists its parts. `sums()` are sum-reduced across ranks, `maxes()` max-reduced. `result()` computes the number to
write from the merged parts, or None to leave it out. Parts stay on the device until one copy brings the values of the
whole step to the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, get_args

import numpy as np
from torch import Tensor

from tbx_callbacks._extensions import OUTSIDE_ERRORS
from tbx_callbacks._model.parameters import PerGroup
from tbx_callbacks._stats import histogram
from tbx_callbacks._stats.clip_factor import clip_factor
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.host_values import FinalValue

_RANKS = 2**16
Part = Number | PerGroup | Mapping[str, Number]
"""One number, or one number for each group: the value is then written under each group's tag."""


class Value:
    """A number that can be merged over ranks.

    A subclass is a frozen dataclass. Its fields are its parts and perhaps options. Each part is a number, a 0-d tensor,
    or one number per group (`PerGroup`, or a mapping of group names to numbers).
    """

    def sums(self) -> tuple[Part, ...]:
        """Returns the parts to add over ranks."""
        return ()

    def maxes(self) -> tuple[Part, ...]:
        """Returns the parts of which to take the maximum over ranks."""
        return ()

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> FinalValue | None:
        """Returns the value to write, from the merged parts of one tag; None leaves it out."""
        raise TypeError(f"{type(self).__name__} must define result")


@dataclass(frozen=True)
class Sum(Value):
    """A number that is added over ranks."""

    value: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.value,)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return sums[0]


@dataclass(frozen=True)
class Mean(Value):
    """`total / count`, both added over ranks; left out when the count is 0."""

    total: Part
    count: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.total, self.count)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return sums[0] / sums[1] if sums[1] else None


@dataclass(frozen=True)
class Max(Value):
    """Maximum over ranks; also used for numbers that are the same on every rank."""

    value: Part

    def maxes(self) -> tuple[Part, ...]:
        return (self.value,)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return maxes[0]


@dataclass(frozen=True)
class RankOfMax(Value):
    """The rank with the largest amount; the highest such rank on ties.

    `amount` must be an integer below 2**37 and `rank` below 2**16, so that one float64 holds both exactly.
    """

    amount: int
    rank: int

    def maxes(self) -> tuple[Part, ...]:
        return (float(self.amount * _RANKS + self.rank),)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return maxes[0] % _RANKS


@dataclass(frozen=True)
class Inverse(Value):
    """1 divided by the maximum over ranks: steps per second from seconds per step."""

    value: Part

    def maxes(self) -> tuple[Part, ...]:
        return (self.value,)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return 1 / maxes[0] if maxes[0] > 0 else None


@dataclass(frozen=True)
class Rate(Value):
    """`count / seconds`, with the count added over ranks and the seconds of the slowest rank."""

    count: Part
    seconds: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.count,)

    def maxes(self) -> tuple[Part, ...]:
        return (self.seconds,)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return sums[0] / maxes[0] if maxes[0] > 0 else None


@dataclass(frozen=True)
class Norm(Value):
    """L2 norm from a sum of squares."""

    square: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.square,)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return math.sqrt(sums[0]) if sums[0] >= 0 else math.nan


@dataclass(frozen=True)
class Rms(Value):
    """Root mean square, from a sum of squares and a count; left out when the count is 0."""

    square: Part
    count: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.square, self.count)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return math.sqrt(sums[0] / sums[1]) if sums[1] else None


@dataclass(frozen=True)
class Ratio(Value):
    """L2 norm divided by another L2 norm, each from its sum of squares; left out when the divisor is 0."""

    square: Part
    by_square: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.square, self.by_square)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return math.sqrt(sums[0] / sums[1]) if sums[1] else None


@dataclass(frozen=True)
class ClipFactor(Value):
    """Factor of clipping by norm, from the sum of squares before clipping; see torch.nn.utils.clip_grad_norm_."""

    square: Part
    max_norm: float

    def sums(self) -> tuple[Part, ...]:
        return (self.square,)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return clip_factor(math.sqrt(sums[0]), self.max_norm) if sums[0] >= 0 else math.nan


@dataclass(frozen=True)
class Unless(Value):
    """A value that is left out when the flag is nonzero on any rank."""

    value: Value
    flag: Part

    def sums(self) -> tuple[Part, ...]:
        return self.value.sums()

    def maxes(self) -> tuple[Part, ...]:
        return (*self.value.maxes(), self.flag)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> FinalValue | None:
        return None if maxes[-1] else self.value.result(sums, maxes[:-1])


@dataclass(frozen=True)
class Histogram:
    """Exact histogram with equal bins between the smallest and the largest finite element of all tensors."""

    tensors: Sequence[Tensor]
    bins: int = 64
    bounds: Tensor | None = None
    """Smallest and largest finite element, `[2]`, if already known."""

    def __post_init__(self) -> None:
        histogram.check_bins(self.bins)
        for tensor in self.tensors:
            if not isinstance(tensor, Tensor):
                raise TypeError(f"a Histogram must be of tensors, got {type(tensor).__name__}; use [tensor]")


@dataclass(frozen=True)
class HistogramParts(Value):
    """A counted histogram. Its parts come from the numbers of `histogram.count`, on the host."""

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> FinalValue | None:
        return histogram.finish((-maxes[0], maxes[1], *sums))


@dataclass(frozen=True)
class Vector(Value):
    """A value with as many parts as a tensor has numbers."""

    numbers: Tensor
    """Numbers of this rank, `[numbers]`."""

    def parts_of(self, numbers: Sequence[float]) -> tuple[list[float], list[float]]:
        """Returns the parts to add and those of which to take the maximum, from this rank's numbers on the host."""
        raise TypeError(f"{type(self).__name__} must define parts_of")


@dataclass(frozen=True)
class BatchMean(Vector):
    """Mean over batches, each of which is a mean over the samples of all ranks.

    It is the number of one process that has the samples of all ranks in each batch, also where batches have different
    sizes. For each batch, `numbers` holds its mean times its number of samples, the number of samples, then its mean
    and 1 if it has no number of samples, and the number of batches that these four stand for.
    """

    def parts_of(self, numbers: Sequence[float]) -> tuple[list[float], list[float]]:
        sums = [number for index, number in enumerate(numbers) if index % 5 < 4]
        return sums, list(numbers[4::5])

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        total = batches = 0.0
        for index, number in enumerate(maxes):
            weighted, samples, mean, count = sums[4 * index : 4 * index + 4]
            if samples or count:  # a rank without samples has no part in the mean of the others
                total += number * (weighted / samples if samples else mean / count)
                batches += number
        return total / batches if batches else None


@dataclass(frozen=True)
class Derived:
    """Values that are computed from the finished numbers of the step, on the rank that writes.

    `function` receives all finished values of the step by tag, after the merge over ranks. They include numbers under
    a tag that starts with `tags.HIDDEN`, which are not written, and numbers that the trainer reported for this step.
    It returns values by tag: a new one, a replacement, or None to leave the tag out. Metrics that return a `Derived`
    under the same key share it: the last one runs.
    """

    function: Callable[[Mapping[str, FinalValue]], Mapping[str, FinalValue | None]]


class Partial(NamedTuple):
    """The parts of one tag's value as numbers, of one rank or merged over ranks."""

    value: Value
    """Computes the final value."""
    sums: Sequence[float]
    maxes: Sequence[float] = ()
    owner: str = ""
    """Name of the metric, if it may fail on another rank."""


Partials = dict[str, Partial]


def results(
    parts: Mapping[str, Partial], on_error: Callable[[str, BaseException], None]
) -> dict[str, FinalValue | None]:
    """Returns the final values by tag; None for a value to leave out.

    Args:
        parts: the parts of each value, merged.
        on_error: called with the tag and the error of a value that cannot be computed; the value is left out.
    """
    values: dict[str, FinalValue | None] = {}
    for tag, (value, sums, maxes, _) in parts.items():
        try:
            result = value.result(sums, maxes)
            values[tag] = result if result is None or type(result) is float else checked(result)
        except OUTSIDE_ERRORS as error:  # a value from outside the package may raise anything
            on_error(tag, error)
    return values


_FINAL: Any = get_args(FinalValue)


def checked(value: Any) -> FinalValue:
    """Returns a value that writers accept.

    Raises:
        TypeError: it is not a number, a histogram, a text or another value of TensorBoard's tabs.
    """
    if isinstance(value, _FINAL):
        final: FinalValue = value
        return final
    if isinstance(value, (Real, np.number)):
        return float(value)
    raise TypeError(f"a result must be a number, a Text or None, got {type(value).__name__}")
