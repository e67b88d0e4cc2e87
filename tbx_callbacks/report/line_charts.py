"""Which tags a line chart shows, and what it calls them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tbx_callbacks import tags
from tbx_callbacks.rules.needs import EVAL_ACCURACY, EVAL_LOSS, GRAD_NORM, LEARNING_RATE, TRAIN_ACCURACY, TRAIN_LOSS
from tbx_callbacks.runs.series import Run, Series
from tbx_callbacks.tags import EVALUATION

Choice = Callable[[Run], dict[str, str]]
"""The tags to show of a run, with their labels."""


@dataclass(frozen=True)
class LineChart:
    """One chart with lines over steps.

    `title`, and `unit` of its values; `about` says what to look at; `scale` is the format of the axis and
    `rangemode` its range, as plotly names them.
    """

    title: str
    choice: Choice
    unit: str = ""
    about: str = ""
    scale: str = ""
    rangemode: str = "normal"


def matching(**labels: str) -> Choice:
    """The tags that a run has of those given: label -> regex of whole tags. `_` in a label is a space."""
    patterns = {label.replace("_", " "): re.compile(pattern) for label, pattern in labels.items()}

    def choose(run: Run) -> dict[str, str]:
        return {
            tag: label if "(" not in pattern.pattern else found[1]
            for label, pattern in patterns.items()
            for tag in run.scalars
            if (found := pattern.fullmatch(tag))
        }

    return choose


def _losses(run: Run) -> dict[str, str]:
    train, evaluated = TRAIN_LOSS.first(run), EVAL_LOSS.all(run)
    found = {train[0]: "train"} if train else {}
    return found | {tag: "eval" if len(evaluated) == 1 else tag for tag in evaluated}


def _scores(run: Run) -> dict[str, str]:
    """Evaluation metrics between 0 and 1."""
    chosen = {tag: "train accuracy" for tag in TRAIN_ACCURACY.all(run)}
    chosen |= {tag: "eval accuracy" for tag in EVAL_ACCURACY.all(run)}
    for tag, series in run.scalars.items():
        if tag.startswith(EVALUATION) and tag not in chosen and not _is_other(tag) and _are_shares(series):
            chosen[tag] = tag.replace("/", " ", 1)
    return chosen


def _are_shares(series: Series) -> bool:
    return bool(((series.values >= 0) & (series.values <= 1)).all())


def _is_other(tag: str) -> bool:
    return tag.endswith(("loss", "runtime", "per_second", "model_preparation_time", "num_tokens"))


def _gradient(run: Run) -> dict[str, str]:
    before = GRAD_NORM.first(run)
    found = {before[0]: "before clipping"} if before else {}
    return found | (
        {f"{tags.GRAD_NORM_CLIPPED}/total": "after clipping"}
        if f"{tags.GRAD_NORM_CLIPPED}/total" in run.scalars
        else {}
    )


def _rates(run: Run) -> dict[str, str]:
    same: dict[bytes, list[str]] = {}
    for tag, series in LEARNING_RATE.all(run).items():
        same.setdefault(series.values.tobytes(), []).append(tag)
    named = {
        equal[0]: equal[0].removeprefix(f"{tags.LEARNING_RATE}/") + (f" and {len(equal) - 1} more" if equal[1:] else "")
        for equal in same.values()
    }
    return named if len(named) > 1 else dict.fromkeys(named, "learning rate")


LOSS = LineChart("Loss", _losses, about="Numbers mark where findings begin, crosses where a rule spoke live.")
LINES = {
    "loss": LOSS,
    "scores": LineChart("Scores", _scores, about="Metrics between 0 and 1."),
    "learning_rate": LineChart("Learning rate", _rates),
    "gradient_norm": LineChart(
        "Gradient norm", _gradient, about="All parameters; both lines touch where nothing is clipped."
    ),
    "clip": LineChart(
        "Clipping",
        matching(factor=tags.CLIP_FACTOR, share_of_steps_clipped=tags.CLIP_SHARE),
        about="Factor 1: not clipped.",
    ),
    "throughput": LineChart(
        "Throughput", matching(samples=tags.SAMPLES_PER_SECOND), unit="samples/s", rangemode="tozero"
    ),
    "tokens": LineChart("Tokens", matching(tokens=tags.TOKENS_PER_SECOND), unit="tokens/s", rangemode="tozero"),
    "step_time": LineChart("Time of a step", matching(step=tags.STEP_SECONDS), unit="s", rangemode="tozero"),
    "memory": LineChart(
        "Memory",
        matching(process=tags.MEMORY_RSS, GPU_peak=tags.MEMORY_PEAK, GPU_reserved=tags.MEMORY_RESERVED),
        unit="GiB",
        rangemode="tozero",
    ),
    "monitor_share": LineChart(
        "What watching cost",
        matching(share=tags.MONITOR_SHARE, waits_for_data=tags.INPUT_SHARE),
        about="Share of the training time.",
        scale=".2~%",
        rangemode="tozero",
    ),
    "nonfinite": LineChart(
        "NaN and Inf",
        matching(
            losses=tags.NONFINITE_LOSSES,
            in_gradients=f"{tags.NONFINITE_GRADIENTS}/total",
            in_weights=f"{tags.NONFINITE_WEIGHTS}/total",
            found=tags.NONFINITE_FOUND,
        ),
        unit="elements",
    ),
    "amp": LineChart("Loss scale", matching(scale=tags.AMP_SCALE)),
    "skipped": LineChart("Skipped steps", matching(skipped=tags.AMP_SKIPPED_STEPS), unit="steps"),
    "optimizer_state": LineChart(
        "Optimizer state", matching(x=rf"{tags.OPTIMIZER_STATE}/(.+)/total"), about="All parameters."
    ),
}
