"""Defines the metrics that fill TensorBoard's HParams, Text and Custom Scalars tabs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import HostValue, HParams, HParamsEnd, HParamsMetrics, Text
from tbx_callbacks.metrics.host_values import Layout as Charts
from tbx_callbacks.metrics.values import Max, Value
from tbx_callbacks.tags import (
    ARGS,
    BEST,
    CUSTOM_SCALARS,
    EVAL,
    EVALUATION,
    HPARAMS_END,
    HPARAMS_METRICS,
    HPARAMS_START,
    LEARNING_RATE,
    MODEL_CONFIG,
    NONFINITE,
    TOTAL,
    TRAIN_LOSS,
    TRAIN_SUMMARY_LOSS,
)

# Suffixes of numbers that trainers log with an evaluation, but that do not measure quality.
_NOT_QUALITY = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "num_tokens")


@dataclass(frozen=True)
class Hparams(Metric):
    """TensorBoard's HParams tab, and the training arguments and model configuration as text.

    The tab shows the run's hyper-parameters next to the last and the best value of each evaluation metric. The words
    in a metric's name tell whether the largest value is the best one (accuracy, F1) or the smallest (loss, error). The
    trainer's own definition of the best model takes precedence, and the key `best` of the set over both:
    `best: {my_score: max}`. A metric of unknown direction has no best value. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{BEST}/<eval metric>": "", ARGS: "text", MODEL_CONFIG: "text"}
    events: ClassVar[frozenset[str]] = frozenset({"start", "log", "end"})

    def __call__(self, context: Context) -> Values:
        run = context.run
        if context.event == "start":
            texts = {name: Text(f"```json\n{text}\n```") for name, text in run.texts.items()}
            return {HPARAMS_START: HParams(run.hparams), **texts}
        if context.event == "end":
            return {} if run.succeeded is None else {HPARAMS_END: HParamsEnd(run.succeeded)}
        eval_tags = [tag for tag in context.logs if tag.startswith(EVALUATION) and not tag.endswith(_NOT_QUALITY)]
        values: dict[str, Value | HostValue] = {
            f"{BEST}/{tag.removeprefix(f'{EVAL}/')}": Max(run.best[tag]) for tag in eval_tags if tag in run.best
        }
        shown = [*eval_tags, *values] if eval_tags else [tag for tag in context.logs if tag == TRAIN_SUMMARY_LOSS]
        if shown and run.hparams:  # TensorBoard takes one run's list for its whole folder: an empty one hides all
            values[HPARAMS_METRICS] = HParamsMetrics(run.hparams, shown)
        return values


@dataclass(frozen=True)
class Layout(Metric):
    """Charts for TensorBoard's Custom Scalars tab.

    One chart shows training and evaluation loss; each family of layers or parameters has a chart. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {CUSTOM_SCALARS: "layout"}
    events: ClassVar[frozenset[str]] = frozenset({"start"})

    def __call__(self, context: Context) -> Values:
        charts: dict[str, dict[str, list[str]]] = {"loss": {"train and eval": [f"^{TRAIN_LOSS}$", f"^{EVAL}/.*loss$"]}}
        for family in context.run.families:
            if family.startswith(f"{NONFINITE}/"):
                continue  # these tags exist only when something is wrong
            charts.setdefault("by layer", {})[family] = [f"^{re.escape(family)}/(?!{TOTAL}$).+"]
        charts["learning rate"] = {"by parameter group": [f"^{LEARNING_RATE}/.+"]}
        return {CUSTOM_SCALARS: Charts(charts)}
