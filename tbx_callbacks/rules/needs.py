"""Which tags hold what rules read: ours first, then what other loggers and people call it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from tbx_callbacks.runs.series import Run, Series

_EVAL = "(?:eval|val|valid|validation|dev|test)"


@dataclass(frozen=True)
class Need:
    """One kind of series.

    `patterns` are regexes of whole tags, the best first: only the tags of the first that matches count. `metric` would
    write it.
    """

    what: str
    metric: str
    patterns: tuple[str, ...]

    def all(self, run: Run) -> dict[str, Series]:
        """The series by tag, in the order in which the run wrote them."""
        for pattern in self.patterns:
            found = {tag: run.scalars[tag] for tag in run.scalars if _fits(pattern, tag)}
            if found:
                return found
        return {}

    def first(self, run: Run) -> tuple[str, Series] | None:
        """The tag and the series, where a run has one."""
        return next(iter(self.all(run).items()), None)


@lru_cache(maxsize=1 << 17)  # a run that trains is asked again and again
def _fits(pattern: str, tag: str) -> bool:
    return re.fullmatch(pattern, tag, re.IGNORECASE) is not None


TRAIN_LOSS = Need(
    "the training loss",
    "loss",
    ("train/loss", "train[_/]loss_step", "train_loss", "loss/train", "loss", "(train[_/]loss|loss)_epoch|epoch_loss"),
)
EVAL_LOSS = Need(
    "the evaluation loss", "loss", ("eval/loss", f"{_EVAL}[_/]loss(_epoch)?", f"loss/{_EVAL}", "eval/.+_loss")
)
TRAIN_ACCURACY = Need(
    "the training accuracy", "train_accuracy", ("train/accuracy", "train[_/]acc(uracy)?(_step|_epoch)?")
)
EVAL_ACCURACY = Need(
    "the evaluation accuracy",
    "loss, with a compute_metrics that returns accuracy",
    ("eval/accuracy", f"{_EVAL}[_/]acc(uracy)?(_epoch)?", f"acc(uracy)?/{_EVAL}"),
)
LEARNING_RATE = Need(
    "learning rates", "learning_rate", ("lr/.+", "train/learning_rate", "lr-.+", "(train[_/])?(learning_rate|lr)")
)
GRAD_NORM = Need(
    "the gradient's norm",
    "grad_norm",
    ("grad_norm/total", r"(train/)?grad_norm|grad_2(\.0)?_norm_total"),
)
LAYER_GRAD_NORMS = Need(
    "gradient norms by layer", "grad_norm: {by: layer}", (r"(grad_norm|grad_2\.0_norm)/(?!total$).+",)
)
WEIGHT_NORMS = Need("weight norms by layer", "weight_norm: {by: layer}", (r"weight_norm/(?!total$).+",))
UPDATE_RATIOS = Need("update ratios by layer", "update_ratio", (r"update_ratio/(?!total$).+",))
NONFINITE = Need(
    "counts of NaN and Inf, or a loss",
    "nonfinite",
    ("nonfinite/(found|losses|(gradients|weights)/total)", *TRAIN_LOSS.patterns, *GRAD_NORM.patterns),
)
CLIP_FACTOR = Need("the factor of clipping", "clip", ("clip/factor",))
ZERO_SHARES = Need("shares of zeros in activations", "activations", ("activations/.+/zero_share",))
AMP_SCALE = Need("the loss scale", "amp, in a run with fp16", ("amp/scale",))
AMP_SKIPPED = Need("steps that AMP skipped", "amp, in a run with fp16", ("amp/skipped_steps",))
INPUT_SHARE = Need("the share of time that waits for data", "input_share", ("perf/input_share",))
LORA = Need(
    "norms of LoRA's matrices",
    "weight_norm: {by: parameter}, in a model with LoRA",
    (r"weight_norm/.*lora_[AB].*", r"grad_norm/.*lora_[AB].*"),
)
