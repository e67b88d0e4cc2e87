"""What a metric may read: the tensors and facts of one moment of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tbx_callbacks.select import Parameter, Selection
from tbx_callbacks.stats import fused
from tbx_callbacks.stats.flat import elements, moved
from tbx_callbacks.stats.fused import Moments
from tbx_callbacks.stats.norms import count_nonfinite, square_norms
from tbx_callbacks.values import Histogram, Mean, Number, Unless, Value

if TYPE_CHECKING:
    from tbx_callbacks.state import State


class Tensors:
    """One tensor a parameter, or None where there is none; statistics are computed once, when first asked for.

    Args:
        tensors: gradients or weights, in the order of the model's parameters.
        scale: what the tensors are multiplied by (a loss scale); squares are divided by its square.
    """

    def __init__(self, tensors: Sequence[Tensor | None], scale: Tensor | None = None) -> None:
        self._tensors: Sequence[Tensor | None] = tensors
        self._scale = scale
        self.present: tuple[bool, ...] = tuple(tensor is not None for tensor in tensors)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, place: int) -> Tensor | None:
        return self._elements[place]

    @cached_property
    def squares(self) -> Tensor:
        """Sum of squares of each tensor, `[parameters]`; 0 where there is none."""
        squares = self._spread(self._raw_squares)
        return squares if self._scale is None else squares / self._scale.to(squares).square()

    @cached_property
    def nonfinite(self) -> Tensor:
        """Number of NaN and Inf elements of each tensor, `[parameters]`; 0 where there is none."""
        if self._moments is not None:
            return self._spread(self._moments.nonfinite)
        return self._spread(count_nonfinite(self._chosen, self._raw_squares))

    def histograms(self, groups: Mapping[str, Sequence[int]], bins: int) -> dict[str, Histogram]:
        """Of the tensors at the places of each group together; groups that have none are left out."""
        there = {name: [place for place in places if self.present[place]] for name, places in groups.items()}
        there = {name: places for name, places in there.items() if places}
        bounds: Sequence[Tensor | None] = [None] * len(there)
        if there and self._moments is not None:
            rank = list(accumulate(self.present, initial=0))  # of a place among those that hold a tensor
            bounds = self._moments.bounds([[rank[place] for place in places] for places in there.values()])
        return {
            name: Histogram([tensor for place in places if (tensor := self[place]) is not None], bins, known)
            for (name, places), known in zip(there.items(), bounds, strict=True)
        }

    def take(self, *, nonfinite: bool) -> None:
        """Computes the statistics now: the tensors will have other contents later."""
        _ = self.squares, nonfinite and self.nonfinite

    def measured(self, *, nonfinite: bool) -> Tensors:
        """The statistics alone, taken now, without a reference to the tensors."""
        self.take(nonfinite=nonfinite)
        self.forget()
        return self

    def forget(self) -> None:
        """Lets go of the tensors; statistics that were taken stay."""
        self._tensors = [None] * len(self._tensors)
        self.__dict__.pop("_elements", None)
        self.__dict__.pop("_chosen", None)

    def squares_where(self, present: Sequence[bool]) -> Tensor:
        """`squares` of the tensors at the places that are `present`; 0 at others."""
        if all(present):
            return self.squares
        keep = moved(torch.tensor(present), self.squares.device)
        return torch.where(keep, self.squares, torch.zeros_like(self.squares))

    @cached_property
    def _elements(self) -> Sequence[Tensor | None]:
        """The tensors; of sparse ones their values, which are made once for all that is asked."""
        return [None if tensor is None else elements(tensor) for tensor in self._tensors]

    @cached_property
    def _chosen(self) -> list[Tensor]:
        return [tensor for tensor in self._elements if tensor is not None]

    @cached_property
    def _moments(self) -> Moments | None:
        """On CUDA one pass finds squares, what is not finite, and the bounds that a histogram needs."""
        return fused.of_each(self._chosen)

    @cached_property
    def _raw_squares(self) -> Tensor:
        return square_norms(self._chosen) if self._moments is None else self._moments.square_norms()

    def _spread(self, numbers: Tensor) -> Tensor:
        if all(self.present):
            return numbers
        places = torch.tensor([place for place, there in enumerate(self.present) if there], dtype=torch.int64)
        return numbers.new_zeros(len(self.present)).index_copy_(0, moved(places, numbers.device), numbers)


@dataclass(frozen=True)
class Interval:
    """What happened since this metric's last point (since the start, at its first)."""

    steps: int = 0
    seconds: float = 0.0
    """Training time: evaluation and saving are left out."""
    monitoring: float = 0.0
    """Seconds of it that measuring and publishing took in the training thread."""
    waiting: float | None = None
    """Seconds of it in which the training waited for its next batch; None where that was not seen."""
    samples: int = 0
    tokens: Number | None = None
    """Tokens that the attention mask lets through; None when the model is given none."""
    losses: int = 0
    """Micro-batches whose loss was seen."""
    nonfinite_losses: Number = 0
    clip_steps: int = 0
    """Steps at which the trainer's gradient norm was seen before clipping."""
    clipped_steps: Number = 0
    skipped_steps: Number = 0
    """Steps that did nothing because gradients overflowed under a loss scale."""
    loss_scale: Number | None = None
    """After the latest update; None without one."""
    hits: Number = 0
    """Right predictions on the training batches."""
    predictions: Number = 0
    """Labels that they were compared with; 0 when none were seen."""
    extra_losses: Mapping[str, Mean] = field(default_factory=dict)
    """Losses that the model returned beside the one that is trained on, by name."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of the whole run."""

    hparams: Mapping[str, bool | float | str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    """What comes before the group's name in tags of scalars that are written for several groups."""
    best: Mapping[str, float] = field(default_factory=dict)
    """Best value so far of each evaluation metric, by its tag."""
    succeeded: bool = True


@dataclass(frozen=True)
class Context:
    """One moment of the run.

    `event` is `start`, `step`, `log` or `end`. Tensors are there at a step only: `gradients` as the optimizer consumed
    them (after clipping), `weights` after the step. `before_clip` holds the statistics of the gradients before clipping
    where the trainer let them be seen, `clipping` says whether the trainer changes gradients between the two.
    """

    event: str
    step: int
    run: RunFacts
    parameters: tuple[Parameter, ...] = ()
    selection: Selection = field(default_factory=lambda: Selection(()))
    gradients: Tensors = field(default_factory=lambda: Tensors(()))
    weights: Tensors = field(default_factory=lambda: Tensors(()))
    before_clip: Tensors | None = None
    updates: Tensors | None = None
    """New weights less old ones, of parameters with a gradient; None unless a metric that needs them is due."""
    skipped: Tensor | None = None
    """Not 0 when the optimizer was called but did nothing: gradients overflowed under a loss scale. None without."""
    state: State | None = None
    """What the optimizer remembers of its parameters after the step."""
    clipping: str = "none"
    """`none`, `norm` or `other`."""
    spreads_nonfinite: bool = False
    """Whether the trainer multiplies gradients by a factor made of their norm, so that one NaN reaches every layer."""
    clip_factor: Value | None = None
    """What clipping multiplied the gradients by; None when the trainer has not told it."""
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    """What a module returned, by its name; only for metrics that need it, which are called while the model runs."""
    learning_rates: Mapping[str, Number] = field(default_factory=dict)
    """The rate that this step used, by `<Optimizer>/<group>`."""
    interval: Interval = field(default_factory=Interval)
    logs: Mapping[str, Number | str] = field(default_factory=dict)
    """Numbers that the trainer logs, by tag; at the event `log` only."""

    def unless_skipped(self, value: Value) -> Value:
        """The value, left out for a step that did nothing."""
        return value if self.skipped is None else Unless(value, self.skipped)

    def histograms(self, tensors: Tensors, bins: int) -> dict[str, Histogram]:
        """A histogram of the tensors of each group of the selection; groups that have none are left out."""
        return tensors.histograms({group.name: group.members for group in self.selection.groups}, bins)
