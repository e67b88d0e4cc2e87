"""The metric seam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from tbx_callbacks._model.parameters import Select
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import HostValue
from tbx_callbacks.metrics.values import Histogram, Value

Values = Mapping[str, Value | Histogram | HostValue]

STEP = frozenset({"step"})
NOTHING: frozenset[str] = frozenset()


class Metric(Protocol):
    """What is measured. A frozen dataclass whose fields are its options; it knows no period, rank, trainer or writer.

    Class attributes describe it to the engine, the command line and the configuration:

    - `tags`: what it writes, tag -> unit; `{group}` stands for the names that the selection makes.
    - `events`: when it is called: `start`, `step`, `log` (the trainer logs numbers), `end`.
    - `needs`: what the engine must prepare: `gradients` (numbers of groups whose gradients cannot be read are left
      out), `before_clip` (gradients seen before clipping, where the trainer allows
      it), `weights_before` (the selected weights are copied before the step, so that its change can be read),
      `activations` (the metric is called while the model runs, for each module that its option `modules` chooses),
      `batches` (loss, samples and tokens of each micro-batch), `losses` (further ones that the model returns),
      `predictions` (its logits are compared with the labels) or `loss_scale` (the trainer's GradScaler is watched).
    - `select`: the default choice of parameters, or None for a metric that reads no parameters. Users set its fields
      as options beside the metric's own.
    - `cost`: one line for the documentation.
    """

    tags: ClassVar[Mapping[str, str]]
    events: ClassVar[frozenset[str]]
    needs: ClassVar[frozenset[str]]
    select: ClassVar[Select | None]
    cost: ClassVar[str]

    def __call__(self, context: Context) -> Values:
        """Values by tag. On a step: device work only, no host sync on an accelerator."""
