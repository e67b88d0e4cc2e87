"""Defines `Context`, which gives metrics the tensors and numbers of one event of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tbx_callbacks._model.parameters import NO_SELECTION, Parameter, PerGroup, Selection
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._stats.types import Number
from tbx_callbacks._wiring.check import Check
from tbx_callbacks.metrics.values import Histogram, Mean, Unless, Value

if TYPE_CHECKING:
    from tbx_callbacks._model.adapters import Adapter
    from tbx_callbacks._model.optimizer_state import OptimizerStateView
    from tbx_callbacks._model.replicas import ReplicaView


class Seconds(dict[str, float]):
    """Seconds by tag of a part of the step."""

    def __sub__(self, earlier: Seconds) -> Seconds:
        return Seconds({tag: seconds - earlier.get(tag, 0.0) for tag, seconds in self.items()})


@dataclass(frozen=True)
class Interval:
    """Counters since this metric's last point, or since the start of the run at its first point."""

    steps: int = 0
    seconds: float = 0.0
    """Training time, without evaluation and saving."""
    monitoring: float = 0.0
    """Seconds of `seconds` that metrics and publishing took in the training thread."""
    waits: int = 0
    """Measured waits for the next batch."""
    waiting: float | None = None
    """Seconds of `seconds` that these waits took; None without one."""
    times: Seconds | None = None
    """Seconds of each part of the step, with evaluation and saving; only for metrics with `needs = {"times"}`."""
    batches: int = 0
    """Micro-batches."""
    sample_batches: int = 0
    """Micro-batches whose samples were counted."""
    samples: Number | None = None
    """Samples; None unless those of every micro-batch were counted."""
    token_batches: int = 0
    """Micro-batches whose tokens were counted."""
    tokens: Number | None = None
    """Tokens without padding; None unless those of every micro-batch were counted."""
    incomplete: frozenset[str] = frozenset()
    """`samples` and `tokens`, if some micro-batch since the start of the training was not counted."""
    losses: int = 0
    """Micro-batches whose loss was recorded."""
    nonfinite_losses: Number = 0
    clip_steps: int = 0
    """Steps whose gradient norm was recorded before clipping."""
    clipped_steps: Number = 0
    skipped_steps: Number = 0
    """Steps that the loss scale skipped because gradients overflowed."""
    loss_scale: Number | None = None
    """Loss scale after its latest update; None without one."""
    hits: Number = 0
    """Correct predictions on the training batches."""
    predictions: Number = 0
    """Labels compared with predictions; 0 when no labels were recorded."""
    class_counts: Tensor | None = None
    """Counts of each class among predictions and among labels, `[2, classes]`; None if they are not counted."""
    extra_losses: Mapping[str, Mean] = field(default_factory=dict)
    """Losses that the model returned besides the training loss, by name."""

    def __sub__(self, earlier: Interval) -> Interval:
        """Returns the counters between two totals; those of `_LATEST` are those of the later one."""
        changes: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            if name not in _LATEST:
                now, before = getattr(self, name), getattr(earlier, name)
                changes[name] = now if before is None else before if now is None else now - before
        if not changes["waits"]:
            changes["waiting"] = None
        for name, count in _COUNTED_BY.items():
            if changes[count] != changes["batches"] or not changes[count]:
                changes[name] = None  # a part of the micro-batches would pass for all of them
        return replace(self, **changes)


_LATEST = ("loss_scale", "extra_losses", "incomplete")
_COUNTED_BY = {"samples": "sample_batches", "tokens": "token_batches"}


@dataclass(frozen=True)
class Microbatches:
    """The micro-batches of one step on this rank, by what each adds to the gradient before clipping."""

    squares: Tensor
    """Squared norm of what each adds, before ranks average it, `[micro-batches]`."""
    total: Tensor
    """Squared norm of the gradient of the step, averaged over ranks."""
    samples: Tensor
    """Samples of each, `[micro-batches]`."""
    weights: Tensor
    """Share of each in the loss of all ranks, `[micro-batches]`; 0 for those that the step does not have."""
    ranks: int = 1
    """Number of ranks that average their gradients."""


@dataclass(frozen=True)
class Padding:
    """The rows of the batches since the last point."""

    kept: Tensor
    """Tokens without padding."""
    padded: int
    """Tokens with padding."""
    sorted: Tensor | None
    """Tokens with padding of the same rows in batches sorted by length; None with too many rows."""
    rows: int
    at_limit: Tensor | None
    """Rows that are as long as the tokenizer's limit; None if it is unknown."""


@dataclass(frozen=True)
class RunInfo:
    """Facts that describe the run as a whole."""

    hparams: Mapping[str, bool | float | str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    """Tag prefixes of the scalars that are written for several groups."""
    best: Mapping[str, float] = field(default_factory=dict)
    """Best value so far of each evaluation metric, by tag."""
    succeeded: bool | None = True
    """Whether the training has ended without an exception; None if that is unknown."""
    rank: int | None = None
    """Rank of this process; None in a training with a single process."""
    last_step: int | None = None
    """Number of the last step; None if it is unknown."""
    finished_steps: int = 0
    """Steps before this part of the training; 0 unless it is resumed."""


@dataclass(frozen=True)
class Context:
    """Inputs of a metric at one event of the run.

    `event` is `start`, `step`, `log` or `end`. Tensors exist only at `step`. `gradients` are those that the optimizer
    consumed (after clipping); `weights` are those after the step. `before_clip` holds statistics of the gradients
    before clipping, where the trainer allows it. `clipping` tells how the trainer clips in between.
    """

    event: str
    step: int
    run: RunInfo
    parameters: tuple[Parameter, ...] = ()
    selection: Selection = NO_SELECTION
    gradients: Tensors = field(default_factory=lambda: Tensors(()))
    weights: Tensors = field(default_factory=lambda: Tensors(()))
    before_clip: Tensors | None = None
    updates: Tensors | None = None
    """New minus old weights of parameters with a gradient; None unless a due metric needs them."""
    initial_weights: Tensors | None = None
    """Weights before the first step of the training, of parameters that required gradients then. Each tensor is read
    when it is used. None unless a due metric needs them, and where they are unknown."""
    adapters: Sequence[Adapter] = ()
    """The model's LoRA adapters; only for metrics with `needs = {"adapters"}`."""
    skipped: Tensor | None = None
    """Nonzero when the optimizer ran but the loss scale skipped the step; None without a loss scale."""
    optimizer_state: OptimizerStateView | None = None
    """Optimizer state of the parameters after the step."""
    replicas: ReplicaView | None = None
    """Copies that other ranks hold too; None with one rank."""
    clipping: str = "none"
    """`none`, `norm` or `other`."""
    spreads_nonfinite: bool = False
    """Whether the trainer scales all gradients by a factor of their norm, which turns one NaN into NaN everywhere."""
    clip_factor: Value | None = None
    """Factor by which clipping multiplied the gradients; None when the trainer has not reported its norm."""
    clip_ratios: tuple[Number, Number] | None = None
    """Squared norms after clipping relative to those before it, over the gradients of this rank: the negated lowest
    ratio, and the highest one; -inf on a rank that has none. None where they are not known before clipping."""
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    """Output of a module, by module name; only for metrics with `needs = {"activations"}`, during the forward pass."""
    learning_rates: Mapping[str, Number] = field(default_factory=dict)
    """Learning rate that this step used, by `<Optimizer>/<group>`."""
    interval: Interval = field(default_factory=Interval)
    checks: Mapping[str, Check] = field(default_factory=dict)
    """Results of checks of the training, by name; only for metrics with `needs = {"wiring"}`."""
    losses_by_group: tuple[PerGroup, PerGroup] | None = None
    """Sums of the rows' losses and numbers of rows since the last point, by group; only for metrics with
    `needs = {"examples"}`."""
    bad_steps: int | None = None
    """Number of steps so far that went wrong on this rank; only for metrics with `needs = {"bad_batches"}`."""
    padding: Padding | None = None
    """Lengths of the rows of the batches; only for metrics with `needs = {"padding"}`."""
    microbatches: Microbatches | None = None
    """Gradients of this step's micro-batches; only for metrics with `needs = {"microbatches"}`."""
    logs: Mapping[str, Number | str] = field(default_factory=dict)
    """Numbers that the trainer logs, by tag; only at the event `log`."""
    state: dict[str, Any] = field(default_factory=dict)
    """What this metric keeps between its points. Empty when a training starts; each optimizer has its own."""

    def unless_skipped(self, value: Value) -> Value:
        """Returns the value, wrapped so that it is left out when the step was skipped."""
        return value if self.skipped is None else Unless(value, self.skipped)

    def sum_by_group(self, tensors: Tensors, function: Callable[..., Number], *others: Tensors) -> PerGroup:
        """Adds `function(elements)` over the parameters of each group of the selection.

        This is right for sharded parameters and for parameters on several devices if the function is additive: its
        value for a tensor must be the sum of its values for the tensor's parts, as for a sum or a count.

        Args:
            tensors: `gradients`, `weights`, `updates` or `initial_weights` of this context; `before_clip` holds only
                its statistics.
            function: receives this rank's elements of one parameter, a 1-D tensor in float32 or float64 that it must
                not change. A complex element counts as two. Of a sparse gradient these are the stored elements. Returns
                a number or a 0-d tensor.
            others: further tensors. The function then receives the elements of each, as in
                `sum_by_group(gradients, torch.dot, updates)`; parameters that lack one of them are left out.

        Returns:
            One number per group, to return as a part of a value such as `Sum` or `Mean`. Groups without such a tensor
            on this rank are left out.

        Raises:
            ValueError: the function returns several numbers, the metric has no `select`, or the tensors are None.
            RuntimeError: the function changes its argument.
        """
        (sums,) = self.sums_by_group(tensors, (function,), *others)
        return sums

    def sums_by_group(
        self, tensors: Tensors, functions: Sequence[Callable[..., Number]], *others: Tensors
    ) -> tuple[PerGroup, ...]:
        """Returns the sums of several functions, which read each tensor once; see `sum_by_group`."""
        numbers, present = self._numbers(tensors, functions, others, empty=0.0)
        return tuple(self.selection.sums(column, present) for column in numbers)

    def max_by_group(self, tensors: Tensors, function: Callable[[Tensor], Number]) -> PerGroup:
        """Returns the maximum of `function(elements)` over the parameters of each group; see `sum_by_group`.

        Groups without elements on this rank are left out. Return the result as a part of a `Max`.
        """
        (numbers,), _ = self._numbers(tensors, (function,), (), empty=-math.inf)
        return self.selection.maxima(numbers, tensors.has_elements)

    def _numbers(
        self, tensors: Tensors, functions: Sequence[Callable[..., Number]], others: Sequence[Tensors], *, empty: float
    ) -> tuple[list[Tensor], tuple[bool, ...]]:
        if self.selection is NO_SELECTION:
            raise ValueError("a number per group needs a selection; add select = Select(by=...) to the metric")
        given: Sequence[Tensors | None] = (tensors, *others)
        if None in given:
            raise ValueError(
                "tensors must be those of this context, got None; add weights_before to needs for updates;"
                " before_clip and initial_weights do not exist in every training"
            )
        return tensors.apply_all(functions, others, empty=empty)

    def histograms(self, tensors: Tensors, bins: int) -> dict[str, Histogram]:
        """Returns one histogram for each group of the selection; groups without tensors are left out."""
        groups = {group.name: group.members for group in self.selection.groups}
        return {name: Histogram(chosen, bins, bounds) for name, (chosen, bounds) in tensors.grouped(groups).items()}
