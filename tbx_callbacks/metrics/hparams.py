"""What the run was: hyper-parameters, arguments, model configuration, best results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.best import EVALUATION
from tbx_callbacks.context import Context
from tbx_callbacks.host_values import HostValue, HParams, HParamsEnd, HParamsMetrics, Text
from tbx_callbacks.metrics.protocol import NOTHING, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Max, Value

# What the trainers log with an evaluation that no run is better by.
_NO_RESULT = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "num_tokens")


@dataclass(frozen=True)
class Hparams:
    """TensorBoard's HParams tab, and the arguments and the model's configuration as text.

    The tab shows the run's hyper-parameters beside the last and the best value of each evaluation metric. The best is
    the smallest for losses and errors and the largest for other metrics, or as the trainer's own choice of best model
    says. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {"best/<eval metric>": "", "args": "text", "model_config": "text"}
    events: ClassVar[frozenset[str]] = frozenset({"start", "log", "end"})
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        run = context.run
        if context.event == "start":
            texts = {name: Text(f"```json\n{text}\n```") for name, text in run.texts.items()}
            return {"_hparams_/session_start_info": HParams(run.hparams), **texts}
        if context.event == "end":
            return {"_hparams_/session_end_info": HParamsEnd(run.succeeded)}
        finals = [tag for tag in context.logs if tag.startswith(EVALUATION) and not tag.endswith(_NO_RESULT)]
        values: dict[str, Value | HostValue] = {
            f"best/{tag.removeprefix('eval/')}": Max(run.best[tag]) for tag in finals if tag in run.best
        }
        shown = [*finals, *values] if finals else [tag for tag in context.logs if tag == "train/train_loss"]
        if shown:
            values["_hparams_/experiment"] = HParamsMetrics(run.hparams, shown)
        return values
