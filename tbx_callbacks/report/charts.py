"""Defines the line charts of a report: which tags each one shows, and their labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from tbx_callbacks import tags
from tbx_callbacks.rules.required_series import (
    EVAL_ACCURACY,
    EVAL_LOSS,
    GRAD_NORM,
    LEARNING_RATE,
    TRAIN_ACCURACY,
    TRAIN_LOSS,
)
from tbx_callbacks.runs.series import Run, Series
from tbx_callbacks.tags import EVALUATION

Choice = Callable[[Run], dict[str, str]]
"""Selects the tags of a run, with their labels."""


@dataclass(frozen=True)
class LineChart:
    """One chart with lines over steps.

    Attributes:
        title: the title.
        choice: selects the tags.
        unit: unit of the values.
        about: explains the chart.
        scale: plotly's `tickformat` of the y axis.
        rangemode: plotly's `rangemode` of the y axis.
        title_of_one: the title of a chart whose lines have one label, which has no legend; `{label}` is the label.
    """

    title: str
    choice: Choice
    unit: str = ""
    about: str = ""
    scale: str = ""
    rangemode: str = "normal"
    title_of_one: str = ""

    def title_for(self, labels: Collection[str]) -> str:
        """The title of the chart with these labels of its lines."""
        return (
            self.title_of_one.format(label=next(iter(labels))) if self.title_of_one and len(labels) == 1 else self.title
        )


def matching(**labels: str) -> Choice:
    """Selects the tags that match whole regexes: label -> regex. `_` in a label stands for a space."""
    patterns = {label.replace("_", " "): re.compile(pattern) for label, pattern in labels.items()}

    def choose(run: Run) -> dict[str, str]:
        return {
            tag: label if "(" not in pattern.pattern else match[1]
            for label, pattern in patterns.items()
            for tag in run.scalars
            if (match := pattern.fullmatch(tag))
        }

    return choose


def _losses(run: Run) -> dict[str, str]:
    train, evaluation = TRAIN_LOSS.first(run), EVAL_LOSS.all(run)
    chosen = {train[0]: "train"} if train else {}
    return chosen | {tag: "eval" if len(evaluation) == 1 else tag for tag in evaluation}


def _scores(run: Run) -> dict[str, str]:
    """Evaluation metrics between 0 and 1."""
    scores = {tag: "train accuracy" for tag in TRAIN_ACCURACY.all(run)}
    accuracy = EVAL_ACCURACY.all(run)
    scores |= {tag: "eval accuracy" if len(accuracy) == 1 else tag.replace("/", " ", 1) for tag in accuracy}
    for tag, series in run.scalars.items():
        if tag.startswith(EVALUATION) and tag not in scores and not _is_not_a_score(tag) and _are_fractions(series):
            scores[tag] = tag.replace("/", " ", 1)
    return scores


def _are_fractions(series: Series) -> bool:
    return bool(((series.values >= 0) & (series.values <= 1)).all())


def _is_not_a_score(tag: str) -> bool:
    suffixes = ("loss", "runtime", "per_second", "model_preparation_time", "num_tokens")
    return tag.endswith(suffixes) or f"/{tags.CALIBRATION}/" in tag


def _gradient(run: Run) -> dict[str, str]:
    unclipped = GRAD_NORM.first(run)
    chosen = {unclipped[0]: "before clipping"} if unclipped else {}
    return chosen | (
        {f"{tags.GRAD_NORM_CLIPPED}/{tags.TOTAL}": "after clipping"}
        if f"{tags.GRAD_NORM_CLIPPED}/{tags.TOTAL}" in run.scalars
        else {}
    )


def _rates(run: Run) -> dict[str, str]:
    tags_by_values: dict[bytes, list[str]] = {}
    for tag, series in LEARNING_RATE.all(run).items():
        tags_by_values.setdefault(series.values.tobytes(), []).append(tag)
    tag_labels = {
        equal_tags[0]: equal_tags[0].removeprefix(f"{tags.LEARNING_RATE}/")
        + (f" and {len(equal_tags) - 1} more" if equal_tags[1:] else "")
        for equal_tags in tags_by_values.values()
    }
    return tag_labels if len(tag_labels) > 1 else dict.fromkeys(tag_labels, "learning rate")


def _of_calibration(*names: str) -> Choice:
    """Selects numbers of the calibration, of each evaluated split."""

    def choose(run: Run) -> dict[str, str]:
        labels = {name: name.replace("ece", "error").replace("_", " ") for name in names}
        parts = {tag: tag.rpartition(f"/{tags.CALIBRATION}/") for tag in run.scalars}
        chosen = {tag: (split, labels[name]) for tag, (split, _, name) in parts.items() if split and name in labels}
        several = len({split for split, _ in chosen.values()}) > 1
        return {tag: f"{split} {label}" if several else label for tag, (split, label) in chosen.items()}

    return choose


LOSS = LineChart("Loss", _losses, about="Numbers mark the start of findings; crosses mark alerts of live rules.")
LINES = {
    "loss": LOSS,
    "scores": LineChart("Scores", _scores, about="Metrics between 0 and 1.", title_of_one="Score: {label}"),
    "learning_rate": LineChart("Learning rate", _rates),
    "gradient_norm": LineChart(
        "Gradient norm", _gradient, about="Over all parameters; the lines coincide where nothing is clipped."
    ),
    "clip": LineChart(
        "Clipping",
        matching(factor=tags.CLIP_FACTOR, share_of_steps_clipped=tags.CLIP_SHARE),
        about="A factor of 1 means no clipping.",
    ),
    "throughput": LineChart(
        "Throughput", matching(samples=tags.SAMPLES_PER_SECOND), unit="samples/s", rangemode="tozero"
    ),
    "tokens": LineChart("Tokens", matching(tokens=tags.TOKENS_PER_SECOND), unit="tokens/s", rangemode="tozero"),
    "step_time": LineChart("Step time", matching(step=tags.STEP_SECONDS), unit="s", rangemode="tozero"),
    "step_parts": LineChart(
        "Time of a step, by part",
        matching(
            data=tags.TIME_DATA,
            forward=tags.TIME_FORWARD,
            backward=tags.TIME_BACKWARD,
            clipping=tags.TIME_CLIP,
            optimizer=tags.TIME_OPTIMIZER,
        ),
        unit="s",
        about="Per step, of the training thread. A GPU's work counts where the thread waits for it.",
        rangemode="tozero",
    ),
    "other_parts": LineChart(
        "Time for other work",
        matching(
            callbacks=tags.TIME_CALLBACKS,
            evaluation=tags.TIME_EVALUATION,
            saving=tags.TIME_SAVING,
            monitoring=tags.TIME_MONITORING,
            unexplained=tags.TIME_OTHER,
        ),
        unit="s",
        about="Per step: beside its passes and the optimizer.",
        rangemode="tozero",
    ),
    "time_left": LineChart("Time left", matching(left=tags.TIME_LEFT), unit="s", rangemode="tozero"),
    "noise_scale": LineChart(
        "Gradient noise scale",
        matching(noise_scale=tags.NOISE_SCALE, examples_of_a_step=tags.NOISE_BATCH_SIZE),
        unit="examples",
        about="Larger batches help while their size is well below the noise scale.",
        rangemode="tozero",
    ),
    "padding": LineChart(
        "Padding",
        matching(
            padding=tags.PADDING_SHARE,
            saved_by_grouping_rows_by_length=tags.PADDING_SAVABLE,
            rows_at_the_length_limit=tags.PADDING_AT_LIMIT,
        ),
        about="Padding and savings: shares of the tokens. At the limit: share of the rows.",
        scale=".2~%",
        rangemode="tozero",
    ),
    "memory": LineChart(
        "Memory",
        matching(process=tags.MEMORY_RSS, GPU_peak=tags.MEMORY_PEAK, GPU_reserved=tags.MEMORY_RESERVED),
        unit="GiB",
        rangemode="tozero",
        title_of_one="Memory: {label}",
    ),
    "monitor_share": LineChart(
        "Monitoring overhead",
        matching(share=tags.MONITOR_SHARE, data_loading=tags.INPUT_SHARE),
        about="Share of the training time.",
        scale=".2~%",
        rangemode="tozero",
    ),
    "calibration": LineChart(
        "Calibration error",
        _of_calibration("ece", "ece_at_temperature"),
        about="Mean gap between confidence and accuracy. The temperature is fitted on the same rows.",
        rangemode="tozero",
    ),
    "temperature": LineChart(
        "Best temperature",
        _of_calibration("temperature"),
        about="Above 1: the model is too confident. Below 1: it is too cautious.",
    ),
    "groups": LineChart(
        "Loss by group",
        matching(x=rf"{tags.EXAMPLES_LOSS}/(.+)"),
        about="Mean loss of the training rows of each group since the last point.",
        title_of_one="Loss of the group {label}",
    ),
    "nonfinite": LineChart(
        "NaN and Inf",
        matching(
            losses=tags.NONFINITE_LOSSES,
            in_gradients=f"{tags.NONFINITE_GRADIENTS}/{tags.TOTAL}",
            in_weights=f"{tags.NONFINITE_WEIGHTS}/{tags.TOTAL}",
            found=tags.NONFINITE_FOUND,
        ),
        unit="elements",
    ),
    "amp": LineChart("Loss scale", matching(scale=tags.AMP_SCALE)),
    "skipped": LineChart("Skipped steps", matching(skipped=tags.AMP_SKIPPED_STEPS), unit="steps"),
    "optimizer_state": LineChart(
        "Optimizer state",
        matching(x=rf"{tags.OPTIMIZER_STATE}/(.+)/{tags.TOTAL}"),
        about="Over all parameters.",
        title_of_one="Optimizer state: {label}",
    ),
}
