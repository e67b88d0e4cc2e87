"""Defines `Need`, which finds the series that rules read: under this package's tags, else under other loggers' tags."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache

from tbx_callbacks import tags
from tbx_callbacks.runs.series import Run, Series

_TRAIN = "train(?:ing)?"
EVALUATION_WORD = "eval(?:uation)?|valid(?:ation)?|val|dev|test(?:ing)?"
"""A regex for the words by which tags and folders name an evaluation."""

_EVAL = f"(?P<word>{EVALUATION_WORD})"
_LOADER = r"(?:/dataloader_idx_(?P<loader>\d+))?"
# Parts of a loss, which may rise while the loss itself falls, and evaluations of the training data.
_NO_SET = (
    r"(?!(?:best|epoch|step|aux\w*|kld?|kl_div\w*|recon\w*|reg\w*|box|cls|dfl|obj|adv\w*|disc\w*|gen\w*|d|g|commit\w*|vq"
    r"|entropy|policy|value|critic|actor|l1|l2|train\w*)[_/.-])"
)
_SET = rf"{_NO_SET}(?P<set>[^/]+?)"


def _evaluations(quantity: str) -> str:
    """Returns a regex for an evaluated quantity, alone or of a named evaluation set."""
    named = rf"{_EVAL}[_/.-](?:epoch_)?(?:{quantity})(?:_epoch)?{_LOADER}"
    forms = (
        named,
        rf"{_EVAL}[_/.-]{_SET}[_/.-](?:{quantity})(?:_epoch)?{_LOADER}",
        rf"{_EVAL}[_/.-](?:{quantity})/(?!dataloader_idx){_SET}",
        rf"(?:{quantity})[_/.-]{_EVAL}(?:[_/.-]{_SET})?",
        rf"epoch_{_EVAL}_(?:{quantity})",
        rf"(?:{_EVAL}/)?evaluation_(?:{quantity})_vs_(?:iterations|epochs)",
    )
    numbered = [re.sub(r"\?P<(\w+)>", rf"?P<\g<1>{index}>", form) for index, form in enumerate(forms)]
    return "|".join(numbered)


@dataclass(frozen=True)
class Need:
    """One kind of series.

    `patterns` are regexes for full tags, best first; only the first pattern with a match counts. `metric` is the metric
    that writes the series. `example` is a tag to name in messages, by default the first pattern.
    """

    what: str
    metric: str
    patterns: tuple[str, ...]
    example: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.patterns, tuple) or not all(isinstance(pattern, str) for pattern in self.patterns):
            raise TypeError(f"patterns must be a tuple of regexes, got {self.patterns!r}; write (pattern,) for one")
        for pattern in self.patterns:
            re.compile(pattern)

    def all(self, run: Run) -> dict[str, Series]:
        """Returns the series by tag, in the order in which the run wrote them."""
        for pattern in self.patterns:
            match = _compiled(pattern).fullmatch
            matches = {tag: series for tag, series in run.scalars.items() if match(tag)}
            if matches:
                return matches
        return {}

    def matches(self, tag: str) -> bool:
        """Whether a tag is of this kind."""
        return any(_compiled(pattern).fullmatch(tag) for pattern in self.patterns)

    def first(self, run: Run) -> tuple[str, Series] | None:
        """Returns the first tag with its series, or None."""
        return next(iter(self.all(run).items()), None)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


@lru_cache(maxsize=1 << 14)
def evaluation_set(need: Need, tag: str) -> str:
    """Returns the name of the evaluation set of a tag of `EVAL_LOSS` or `EVAL_ACCURACY`; "" for the usual set.

    A test set is not the usual one, because it is rarely evaluated together with the others.
    """
    match = _compiled(need.patterns[0]).fullmatch(tag)
    groups = {key.rstrip("0123456789"): value for key, value in match.groupdict().items() if value} if match else {}
    test = "test" if groups.get("word", "").lower().startswith("test") else ""
    return "/".join(part for part in (test, groups.get("set", "").lower(), groups.get("loader", "")) if part)


TRAIN_LOSS = Need(
    "the training loss",
    "loss",
    (
        tags.TRAIN_LOSS,
        "train[_/]loss_step",
        f"{_TRAIN}[_/.-]loss",
        f"loss[_/.-]{_TRAIN}",
        "loss",
        f"({_TRAIN}[_/]loss|loss)_epoch|({_TRAIN}/)?epoch_loss",
    ),
)
EVAL_LOSS = Need(
    "the evaluation loss", "loss, and evaluations during training", (_evaluations("loss"),), tags.EVAL_LOSS
)
TRAIN_ACCURACY = Need(
    "the training accuracy",
    "train_accuracy",
    (
        tags.TRAIN_ACCURACY,
        f"{_TRAIN}[_/.-]acc(uracy)?(_step|_epoch)?",
        f"acc(uracy)?[_/.-]{_TRAIN}",
        f"({_TRAIN}/)?epoch_((sparse_)?categorical_|binary_)?accuracy",
    ),
)
EVAL_ACCURACY = Need(
    "the evaluation accuracy",
    "loss, with evaluations whose compute_metrics returns accuracy",
    (_evaluations("acc(?:uracy)?|(?:(?:sparse_)?categorical_|binary_)accuracy"),),
    tags.EVAL_ACCURACY,
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
DRIFTS = Need("distances from the initial weights by layer", "drift", (rf"{tags.DRIFT}/(?!total$).+",))
UPDATE_RATIOS = Need("update ratios by layer", "update_ratio", (rf"{tags.UPDATE_RATIO}/(?!total$).+",))
NONFINITE = Need(
    "counts of NaN and Inf, a loss or a gradient norm",
    "nonfinite",
    (f"{tags.NONFINITE}/(found|losses|(gradients|weights)/total)", *TRAIN_LOSS.patterns, *GRAD_NORM.patterns),
    f"{tags.NONFINITE_GRADIENTS}/{tags.TOTAL}",
)
CLIP_FACTOR = Need("the clip factor", "clip", (tags.CLIP_FACTOR,))
ZERO_SHARES = Need("shares of zeros in activations", "activations", (f"{tags.ACTIVATIONS}/.+/zero_share",))
AMP_SCALE = Need("the loss scale", "amp, in a run with fp16", (tags.AMP_SCALE,))
AMP_SKIPPED = Need("skipped steps", "amp, in a run with fp16", (tags.AMP_SKIPPED_STEPS,))
REPLICAS = Need(
    "comparisons of the ranks' copies",
    "replicas, with several ranks",
    (f"{tags.REPLICAS}/(weights|optimizer_state|buffers|unmatched)/total",),
    f"{tags.REPLICAS_WEIGHTS}/{tags.TOTAL}",
)
_RANKS = "time, with several ranks"
SLOWEST_RANK = Need("the slowest rank", _RANKS, (tags.TIME_SLOWEST_RANK,))
SLOWEST_LEAD = Need("how far the slowest rank is behind", _RANKS, (tags.TIME_SLOWEST_LEAD,))
INPUT_SHARE = Need("the share of time spent waiting for data", "input_share", (tags.INPUT_SHARE,))
_CLASSES = "train_accuracy, in a classifier with at most 20 classes"
LABEL_SHARES = Need("shares of the classes among the labels", _CLASSES, (rf"{tags.LABEL_SHARE}/\d+",))
PREDICTED_SHARES = Need("shares of the classes among the predictions", _CLASSES, (rf"{tags.PREDICTED_SHARE}/\d+",))
LABELS = Need("the number of labels", _CLASSES, (tags.TRAIN_LABELS,))
LORA_UPDATES = Need("updates of LoRA adapters", "lora", (f"{tags.LORA_UPDATE}/.*",))
LORA = Need(
    "norms of LoRA matrices or updates of adapters",
    "lora, in a model with LoRA",
    (rf"{tags.WEIGHT_NORM}/.*lora_[AB].*", rf"{tags.GRAD_NORM}/.*lora_[AB].*", *LORA_UPDATES.patterns),
    f"{tags.LORA_UPDATE}/<module>",
)
ADAPTERS = Need("the number of trainable parameters of adapters", "wiring", (f"{tags.WIRING}/adapters",))
POLICY = Need(
    "the signs of a policy gradient",
    "loss, with a trainer that logs train/reward",
    (r"(train/)?(reward|reward_std|frac_reward_zero_std|objective/(kl|rlhf_reward)|policy_loss|rollout/ep_rew_mean)",),
)
ADVERSARIAL = Need(
    "the losses of two adversaries",
    "loss",
    (r"(.*[_/.-])?(d|disc|discriminator|adv|adversarial)[_/.-]?loss([_/.-].*)?", r"loss[_/.-](d|disc\w*)"),
)
ENTROPY = Need(
    "the entropy of the policy",
    "loss, with trl's trainer",
    (r"(train/)?(policy/|objective/)?(entropy|entropy_avg)",),
    "entropy",
)
KL = Need(
    "the KL divergence from the reference model", "loss, with trl's trainer", (r"(train/)?(objective/)?kl",), "kl"
)
ZERO_STD = Need(
    "the share of groups without variance of the reward",
    "loss, with trl's trainer",
    (r"(train/)?frac_reward_zero_std",),
    "frac_reward_zero_std",
)
CHOSEN = Need(
    "log-probabilities of chosen answers", "loss, with trl's trainer", (r"(train/)?logps/chosen",), "logps/chosen"
)
REJECTED = Need(
    "log-probabilities of rejected answers", "loss, with trl's trainer", (r"(train/)?logps/rejected",), "logps/rejected"
)
TRUNCATED = Need(
    "the share of truncated completions",
    "loss, with trl's trainer",
    (r"(train/)?completions/clipped_ratio",),
    "completions/clipped_ratio",
)
