"""What a metric may read: the tensors and facts of one moment of the run."""

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
class RunInfo:
    """What is known of the whole run."""

    hparams: Mapping[str, bool | float | str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    """What comes before the group's name in tags of scalars that are written for several groups."""
    best: Mapping[str, float] = field(default_factory=dict)
    """Best value so far of each evaluation metric, by its tag."""
    succeeded: bool = True
    rank: int | None = None
    """This process among several that train together; None for one that trains alone."""


@dataclass(frozen=True)
class Context:
    """One moment of the run.

    `event` is `start`, `step`, `log` or `end`. Tensors are there at a step only: `gradients` as the optimizer consumed
    them (after clipping), `weights` after the step. `before_clip` holds the statistics of the gradients before clipping
    where the trainer let them be seen, `clipping` says whether the trainer changes gradients between the two.
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
    """New weights less old ones, of parameters with a gradient; None unless a metric that needs them is due."""
    skipped: Tensor | None = None
    """Not 0 when the optimizer was called but did nothing: gradients overflowed under a loss scale. None without."""
    optimizer_state: OptimizerStateView | None = None
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
        groups = {group.name: group.members for group in self.selection.groups}
        return {name: Histogram(chosen, bins, known) for name, (chosen, known) in tensors.grouped(groups).items()}
