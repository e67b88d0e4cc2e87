"""What a metric returns: values that carry what is needed to merge them over ranks, and know how to finish.

A value offers its parts that are added over ranks (`sums`) and those of which the largest counts (`maxes`), as numbers
or 0-d tensors, and turns the merged parts into the number that is written (`result`; None means that it cannot be right
and is left out). Parts stay on the device until the whole step is copied to the host at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tbx_callbacks._stats.clipping import clip_factor
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.host_values import Text

_RANKS = 2**16
StepInfo = Mapping[str, float]


class Value:
    """A mergeable number."""

    def sums(self) -> tuple[Number, ...] | Mapping[str, Number]:
        """Parts that are added over ranks; by name where ranks may have different ones."""
        return ()

    def maxes(self) -> tuple[Number, ...]:
        """Parts of which the largest over ranks counts."""
        return ()

    def widened(self, names: Sequence[str]) -> Value:
        """The same for the parts of all ranks, where this one has only some; for values that name their parts."""
        return self

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | Text | None:
        """The number (or words) to write; None leaves it out."""
        raise TypeError(f"{type(self).__name__} must define result")


@dataclass(frozen=True)
class Sum(Value):
    """Added over ranks."""

    value: Number

    def sums(self) -> tuple[Number, ...]:
        return (self.value,)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return sums[0]


@dataclass(frozen=True)
class Mean(Value):
    """`total / count`, both added over ranks; left out when nothing was counted."""

    total: Number
    count: Number

    def sums(self) -> tuple[Number, ...]:
        return (self.total, self.count)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return sums[0] / sums[1] if sums[1] else None


@dataclass(frozen=True)
class Max(Value):
    """The largest over ranks. For a number that is the same on every rank, that number."""

    value: Number

    def maxes(self) -> tuple[Number, ...]:
        return (self.value,)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return maxes[0]


@dataclass(frozen=True)
class RankOfMax(Value):
    """The rank whose amount is the largest; of several that have it the highest.

    `amount` is a whole number below 2**37, `rank` one below 2**16: together a float64 holds them exactly.
    """

    amount: int
    rank: int

    def maxes(self) -> tuple[Number, ...]:
        return (float(self.amount * _RANKS + self.rank),)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return maxes[0] % _RANKS


@dataclass(frozen=True)
class Inverse(Value):
    """1 divided by the largest over ranks: steps a second from seconds a step."""

    value: Number

    def maxes(self) -> tuple[Number, ...]:
        return (self.value,)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return 1 / maxes[0] if maxes[0] > 0 else None


@dataclass(frozen=True)
class Rate(Value):
    """`count / seconds`: the count is added over ranks, the slowest rank's seconds count."""

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

    With `divide_by`, the norm is divided by the fact of that name, which the trainer may give after the measurement (a
    norm taken after clipping, divided by the clip factor, is the norm before it); without that fact it is left out.
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
    """Root mean square, from a sum of squares and how many there are; left out when there are none."""

    square: Number
    count: Number

    def sums(self) -> tuple[Number, ...]:
        return (self.square, self.count)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return math.sqrt(sums[0] / sums[1]) if sums[1] else None


@dataclass(frozen=True)
class Ratio(Value):
    """L2 norm divided by another, each from its sum of squares; left out where the other is 0."""

    square: Number
    by_square: Number

    def sums(self) -> tuple[Number, ...]:
        return (self.square, self.by_square)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return math.sqrt(sums[0] / sums[1]) if sums[1] else None


@dataclass(frozen=True)
class ClipFactor(Value):
    """What clipping by norm multiplies by, from the sum of squares before it; see torch.nn.utils.clip_grad_norm_."""

    square: Number
    max_norm: float

    def sums(self) -> tuple[Number, ...]:
        return (self.square,)

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return clip_factor(math.sqrt(sums[0]), self.max_norm) if sums[0] >= 0 else math.nan


@dataclass(frozen=True)
class Unless(Value):
    """A value that is left out when a flag is not 0 on any rank."""

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
    """A number that the trainer gives for this step, perhaps after the measurement; left out if it does not."""

    name: str

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return step_info.get(self.name)


@dataclass(frozen=True)
class Histogram:
    """Exact counts over equal bins between the smallest and the largest finite element of all tensors together."""

    tensors: Sequence[Tensor]
    bins: int = 64
    bounds: Tensor | None = None
    """Smallest and largest finite element, `[2]`, where they are known already."""
