"""Defines the values that metrics return, which can be merged over ranks.

A value lists its parts as numbers or 0-d tensors. `sums()` are sum-reduced across ranks, `maxes()` max-reduced.
`result()` computes the number to write from the merged parts, or None to leave it out. Parts stay on the device until
one copy brings the values of the whole step to the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tbx_callbacks._stats.clip_factor import clip_factor
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.host_values import Text

_RANKS = 2**16
StepInfo = Mapping[str, float]


class Value:
    """A mergeable number."""

    def sums(self) -> tuple[Number, ...] | Mapping[str, Number]:
        """Returns the parts to add over ranks; by name where ranks may have different parts."""
        return ()

    def maxes(self) -> tuple[Number, ...]:
        """Returns the parts of which to take the maximum over ranks."""
        return ()

    def widened(self, names: Sequence[str]) -> Value:
        """Returns this value with the named parts of all ranks; only for values that name their parts."""
        return self

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | Text | None:
        """Returns the number or text to write, or None to leave it out."""
        raise TypeError(f"{type(self).__name__} must define result")


@dataclass(frozen=True)
class Sum(Value):
    """A number that is added over ranks."""

    value: Number

    def sums(self) -> tuple[Number, ...]:
        return (self.value,)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return sums[0]


@dataclass(frozen=True)
class Mean(Value):
    """`total / count`, both added over ranks; left out when the count is 0."""

    total: Number
    count: Number

    def sums(self) -> tuple[Number, ...]:
        return (self.total, self.count)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return sums[0] / sums[1] if sums[1] else None


@dataclass(frozen=True)
class Max(Value):
    """Maximum over ranks; also used for numbers that are the same on every rank."""

    value: Number

    def maxes(self) -> tuple[Number, ...]:
        return (self.value,)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return maxes[0]


@dataclass(frozen=True)
class RankOfMax(Value):
    """The rank with the largest amount; the highest such rank on ties.

    `amount` must be an integer below 2**37 and `rank` below 2**16, so that one float64 holds both exactly.
    """

    amount: int
    rank: int

    def maxes(self) -> tuple[Number, ...]:
        return (float(self.amount * _RANKS + self.rank),)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return maxes[0] % _RANKS


@dataclass(frozen=True)
class Inverse(Value):
    """1 divided by the maximum over ranks: steps per second from seconds per step."""

    value: Number

    def maxes(self) -> tuple[Number, ...]:
        return (self.value,)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return 1 / maxes[0] if maxes[0] > 0 else None


@dataclass(frozen=True)
class Rate(Value):
    """`count / seconds`, with the count added over ranks and the seconds of the slowest rank."""

    count: Number
    seconds: float

    def sums(self) -> tuple[Number, ...]:
        return (self.count,)

    def maxes(self) -> tuple[Number, ...]:
        return (self.seconds,)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return sums[0] / maxes[0] if maxes[0] > 0 else None


@dataclass(frozen=True)
class Norm(Value):
    """L2 norm from a sum of squares.

    `divide_by` names an entry of `step_info` to divide by. The trainer may provide it after the step: the norm after
    clipping divided by the clip factor is the norm before clipping. Without that entry the value is left out.
    """

    square: Number
    divide_by: str | None = None

    def sums(self) -> tuple[Number, ...]:
        return (self.square,)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        norm = math.sqrt(sums[0]) if sums[0] >= 0 else math.nan
        if self.divide_by is None:
            return norm
        factor = step_info.get(self.divide_by)
        return norm / factor if factor else None


@dataclass(frozen=True)
class Rms(Value):
    """Root mean square, from a sum of squares and a count; left out when the count is 0."""

    square: Number
    count: Number

    def sums(self) -> tuple[Number, ...]:
        return (self.square, self.count)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return math.sqrt(sums[0] / sums[1]) if sums[1] else None


@dataclass(frozen=True)
class Ratio(Value):
    """L2 norm divided by another L2 norm, each from its sum of squares; left out when the divisor is 0."""

    square: Number
    by_square: Number

    def sums(self) -> tuple[Number, ...]:
        return (self.square, self.by_square)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return math.sqrt(sums[0] / sums[1]) if sums[1] else None


@dataclass(frozen=True)
class ClipFactor(Value):
    """Factor of clipping by norm, from the sum of squares before clipping; see torch.nn.utils.clip_grad_norm_."""

    square: Number
    max_norm: float

    def sums(self) -> tuple[Number, ...]:
        return (self.square,)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return clip_factor(math.sqrt(sums[0]), self.max_norm) if sums[0] >= 0 else math.nan


@dataclass(frozen=True)
class Unless(Value):
    """A value that is left out when the flag is nonzero on any rank."""

    value: Value
    flag: Number

    def sums(self) -> tuple[Number, ...] | Mapping[str, Number]:
        return self.value.sums()

    def maxes(self) -> tuple[Number, ...]:
        return (*self.value.maxes(), self.flag)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | Text | None:
        return None if maxes[-1] else self.value.result(sums, maxes[:-1], step_info)


@dataclass(frozen=True)
class TrainerNumber(Value):
    """A number that the trainer reports for this step, perhaps later; left out if it never does."""

    name: str

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return step_info.get(self.name)


@dataclass(frozen=True)
class Histogram:
    """Exact histogram with equal bins between the smallest and the largest finite element of all tensors."""

    tensors: Sequence[Tensor]
    bins: int = 64
    bounds: Tensor | None = None
    """Smallest and largest finite element, `[2]`, if already known."""
