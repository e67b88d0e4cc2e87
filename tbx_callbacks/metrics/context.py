"""Defines `Context`, which gives metrics the tensors and numbers of one event of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from tbx_callbacks._model.parameters import Parameter, Selection
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.values import Histogram, Mean, Unless, Value

if TYPE_CHECKING:
    from tbx_callbacks._model.optimizer_state import OptimizerStateView


@dataclass(frozen=True)
class Interval:
    """Counters since this metric's last point, or since the start of the run at its first point."""

    steps: int = 0
    seconds: float = 0.0
    """Training time, without evaluation and saving."""
    monitoring: float = 0.0
    """Seconds of `seconds` that metrics and publishing took in the training thread."""
    waiting: float | None = None
    """Seconds of `seconds` that the training waited for its next batch; None where the wait cannot be measured."""
    samples: int = 0
    tokens: Number | None = None
    """Tokens that the attention mask does not mask; None when the model receives no mask."""
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
    extra_losses: Mapping[str, Mean] = field(default_factory=dict)
    """Losses that the model returned besides the training loss, by name."""


@dataclass(frozen=True)
class RunInfo:
    """Facts that describe the run as a whole."""

    hparams: Mapping[str, bool | float | str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    """Tag prefixes of the scalars that are written for several groups."""
    best: Mapping[str, float] = field(default_factory=dict)
    """Best value so far of each evaluation metric, by tag."""
    succeeded: bool = True
    rank: int | None = None
    """Rank of this process; None in a training with a single process."""


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
    selection: Selection = field(default_factory=lambda: Selection(()))
    gradients: Tensors = field(default_factory=lambda: Tensors(()))
    weights: Tensors = field(default_factory=lambda: Tensors(()))
    before_clip: Tensors | None = None
    updates: Tensors | None = None
    """New minus old weights of parameters with a gradient; None unless a due metric needs them."""
    skipped: Tensor | None = None
    """Nonzero when the optimizer ran but the loss scale skipped the step; None without a loss scale."""
    optimizer_state: OptimizerStateView | None = None
    """Optimizer state of the parameters after the step."""
    clipping: str = "none"
    """`none`, `norm` or `other`."""
    spreads_nonfinite: bool = False
    """Whether the trainer scales all gradients by a factor of their norm, which turns one NaN into NaN everywhere."""
    clip_factor: Value | None = None
    """Factor by which clipping multiplied the gradients; None when the trainer has not reported its norm."""
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    """Output of a module, by module name; only for metrics with `needs = {"activations"}`, during the forward pass."""
    learning_rates: Mapping[str, Number] = field(default_factory=dict)
    """Learning rate that this step used, by `<Optimizer>/<group>`."""
    interval: Interval = field(default_factory=Interval)
    logs: Mapping[str, Number | str] = field(default_factory=dict)
    """Numbers that the trainer logs, by tag; only at the event `log`."""

    def unless_skipped(self, value: Value) -> Value:
        """Returns the value, wrapped so that it is left out when the step was skipped."""
        return value if self.skipped is None else Unless(value, self.skipped)

    def histograms(self, tensors: Tensors, bins: int) -> dict[str, Histogram]:
        """Returns one histogram for each group of the selection; groups without tensors are left out."""
        groups = {group.name: group.members for group in self.selection.groups}
        return {name: Histogram(chosen, bins, bounds) for name, (chosen, bounds) in tensors.grouped(groups).items()}
