"""Defines `Need`, which finds the series that rules read: under this package's tags, else under other loggers' tags."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from tbx_callbacks import tags
from tbx_callbacks.runs.series import Run, Series

_EVAL = "(?:eval|val|valid|validation|dev|test)"


@dataclass(frozen=True)
class Need:
    """One kind of series.

    `patterns` are regexes for full tags, best first; only the first pattern with a match counts. `metric` is the metric
    that writes the series.
    """

    what: str
    metric: str
    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.patterns, tuple) or not all(isinstance(pattern, str) for pattern in self.patterns):
            raise TypeError(f"patterns must be a tuple of regexes, got {self.patterns!r}; write (pattern,) for one")
        for pattern in self.patterns:
            re.compile(pattern)

    def all(self, run: Run) -> dict[str, Series]:
        """Returns the series by tag, in the order in which the run wrote them."""
        for pattern in self.patterns:
            matches = {tag: run.scalars[tag] for tag in run.scalars if _matches(pattern, tag)}
            if matches:
                return matches
        return {}

    def first(self, run: Run) -> tuple[str, Series] | None:
        """Returns the first tag with its series, or None."""
        return next(iter(self.all(run).items()), None)


@lru_cache(maxsize=1 << 17)  # live rules match the same tags again and again
def _matches(pattern: str, tag: str) -> bool:
    return re.fullmatch(pattern, tag, re.IGNORECASE) is not None


TRAIN_LOSS = Need(
    "the training loss",
    "loss",
    (
        tags.TRAIN_LOSS,
        "train[_/]loss_step",
        "train_loss",
        "loss/train",
        "loss",
        "(train[_/]loss|loss)_epoch|epoch_loss",
    ),
)
EVAL_LOSS = Need(
    "the evaluation loss", "loss", (tags.EVAL_LOSS, f"{_EVAL}[_/]loss(_epoch)?", f"loss/{_EVAL}", "eval/.+_loss")
)
TRAIN_ACCURACY = Need(
    "the training accuracy", "train_accuracy", (tags.TRAIN_ACCURACY, "train[_/]acc(uracy)?(_step|_epoch)?")
)
EVAL_ACCURACY = Need(
    "the evaluation accuracy",
    "loss, with a compute_metrics that returns accuracy",
    (tags.EVAL_ACCURACY, f"{_EVAL}[_/]acc(uracy)?(_epoch)?", f"acc(uracy)?/{_EVAL}"),
)
LEARNING_RATE = Need(
    "learning rates",
    "learning_rate",
    (f"{tags.LEARNING_RATE}/.+", tags.TRAIN_LEARNING_RATE, "lr-.+", "(train[_/])?(learning_rate|lr)"),
)
GRAD_NORM = Need(
    "the gradient norm",
    "grad_norm",
    (f"{tags.GRAD_NORM}/{tags.TOTAL}", r"(train/)?grad_norm|grad_2(\.0)?_norm_total"),
)
LAYER_GRAD_NORMS = Need(
    "gradient norms by layer", "grad_norm: {by: layer}", (rf"({tags.GRAD_NORM}|grad_2\.0_norm)/(?!total$).+",)
)
WEIGHT_NORMS = Need("weight norms by layer", "weight_norm: {by: layer}", (rf"{tags.WEIGHT_NORM}/(?!total$).+",))
UPDATE_RATIOS = Need("update ratios by layer", "update_ratio", (rf"{tags.UPDATE_RATIO}/(?!total$).+",))
NONFINITE = Need(
    "counts of NaN and Inf, a loss or a gradient norm",
    "nonfinite",
    (f"{tags.NONFINITE}/(found|losses|(gradients|weights)/total)", *TRAIN_LOSS.patterns, *GRAD_NORM.patterns),
)
CLIP_FACTOR = Need("the clip factor", "clip", (tags.CLIP_FACTOR,))
ZERO_SHARES = Need("shares of zeros in activations", "activations", (f"{tags.ACTIVATIONS}/.+/zero_share",))
AMP_SCALE = Need("the loss scale", "amp, in a run with fp16", (tags.AMP_SCALE,))
AMP_SKIPPED = Need("skipped steps", "amp, in a run with fp16", (tags.AMP_SKIPPED_STEPS,))
INPUT_SHARE = Need("the share of time spent waiting for data", "input_share", (tags.INPUT_SHARE,))
LORA = Need(
    "norms of LoRA matrices",
    "weight_norm: {by: parameter}, in a model with LoRA",
    (rf"{tags.WEIGHT_NORM}/.*lora_[AB].*", rf"{tags.GRAD_NORM}/.*lora_[AB].*"),
)
