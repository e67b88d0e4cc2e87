"""Defines `Metric`, the interface that every metric implements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from tbx_callbacks._model.parameters import Select
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import HostValue
from tbx_callbacks.metrics.values import Derived, Histogram, Value

Values = Mapping[str, Value | Histogram | HostValue | Derived]

STEP = frozenset({"step"})
NOTHING: frozenset[str] = frozenset()
EVENTS = frozenset({"start", "step", "log", "end"})
NEEDS = frozenset(
    {
        "gradients",
        "before_clip",
        "weights_before",
        "initial_weights",
        "adapters",
        "whole_weights",
        "activations",
        "batches",
        "clipping",
        "losses",
        "predictions",
        "nonfinite",
        "loss_scale",
        "wiring",
        "examples",
        "bad_batches",
        "times",
        "microbatches",
        "padding",
    }
)


class Metric(Protocol):
    """A frozen dataclass whose fields are the metric's options. It knows no cadence, rank, trainer or writer.

    ```python
    @dataclass(frozen=True)
    class Kurtosis(Metric):
        tags = {"kurtosis/{group}": ""}
        select = Select(by="layer")

        def __call__(self, context: Context) -> Values: ...
    ```

    Class attributes describe the metric to the engine, the command line and the configuration:

    - `tags`: tags it writes -> unit; `{group}` stands for each group of the selection.
    - `events`: when the engine calls it: `start`, `step`, `log` (the trainer logs numbers), `end`.
    - `needs`: inputs that the engine must prepare:
        - `gradients`: gradients; groups whose gradients cannot be read are left out;
        - `before_clip`: gradients before clipping, where the trainer allows it;
        - `weights_before`: a copy of the selected weights before the step, to compute updates;
        - `initial_weights`: the selected weights before the first step of the training, on the disk or in the host's
          memory; parameters that are frozen then are left out;
        - `adapters`: the LoRA adapters of the model;
        - `whole_weights`: every rank holds whole parameters; the metric is left out where it does not;
        - `activations`: module outputs; the engine calls the metric while the model runs, once for each module that
          the option `modules` chooses;
        - `batches`: loss, samples and tokens of each micro-batch;
        - `clipping`: whether each step's gradients were clipped;
        - `losses`: further losses that the model returns;
        - `predictions`: the model's logits, compared with the labels;
        - `nonfinite`: counts of non-finite elements, taken together with the norms;
        - `loss_scale`: the loss scale of the trainer's GradScaler;
        - `wiring`: checks of the training in its first steps; the metric is due in each of them;
        - `examples`: rows of a classifier's training batches, which the engine writes to files;
        - `bad_batches`: batches of steps that went wrong, which the engine writes to files;
        - `times`: the time of the training thread by parts of the step;
        - `microbatches`: squared norms of the gradients of a step's micro-batches;
        - `padding`: lengths of the rows of the batches, since the last point.
    - `select`: the default choice of parameters, or None for a metric that reads no parameters. Users set its fields
      as options, next to the metric's own.
    - `cost`: one line for the documentation.
    """

    tags: ClassVar[Mapping[str, str]]
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        """Returns values by tag. On the event `step` it must not cause a host sync on an accelerator.

        The tag of a value with one number per group contains `{group}`.
        """
