"""Splits the kinds of fault and of healthy training into a development half and a held-out half.

The split is by kind and was fixed before the first scoring. Thresholds of rules are chosen on the development half
only. It has every kind that was seen when the present thresholds were set: those of
`tests/trainers/test_planted_faults.py` and of an earlier set of 29 faults and 19 healthy runs. The held-out half has
kinds that no threshold was chosen on.
"""

from __future__ import annotations

from typing import Literal

Half = Literal["development", "held-out"]
HALVES: tuple[Half, ...] = ("development", "held-out")

_FAULTS: dict[Half, frozenset[str]] = {
    "development": frozenset(
        {
            "bad initialisation",
            "branch detached",
            "class never predicted",
            "clipping",
            "dead units",
            "dropout too strong",
            "evaluation data differ",
            "exploding gradients",
            "gan out of balance",
            "gradients not cleared",
            "inputs without information",
            "label leaks",
            "labels all ignored",
            "labels noisy or random",
            "layers frozen",
            "lora frozen",
            "loss scale",
            "nan in the data",
            "optimizer of another model",
            "order of the data",
            "overfitting",
            "rate ends early",
            "rate jumps",
            "rate too high",
            "rate too low",
            "vanishing gradients",
        }
    ),
    "held-out": frozenset(
        {
            "all frozen but norms",
            "batch norm",
            "evaluation rows in training",
            "first loss not finite",
            "head replaced",
            "labels out of range",
            "labels shifted",
            "loss doubled by softmax",
            "loss summed",
            "loss with the wrong sign",
            "mode in evaluation",
            "mode in training",
            "no gradient",
            "optimizer never steps",
            "padding attended",
            "parameter optimized twice",
            "precision of the weights",
            "rate per batch",
            "restart",
            "same rows",
            "slow input",
            "unknown tokens",
            "weight decay",
            "weights changed outside",
        }
    ),
}

_HEALTHY: dict[Half, frozenset[str]] = {
    "development": frozenset(
        {
            "adapters",
            "adversaries",
            "contrastive pairs",
            "density",
            "image classification",
            "language model",
            "multi-label classification",
            "sequence to sequence",
            "short run",
            "tabular data",
            "text classification",
            "token classification",
            "trained before",
        }
    ),
    "held-out": frozenset(
        {
            "accumulated batches",
            "autoencoder",
            "distillation",
            "frozen on purpose",
            "imbalanced classes",
            "masked language model",
            "mixed losses",
            "mixed precision",
            "moving average of weights",
            "other optimizer",
            "other schedule",
            "recommender",
            "recurrent network",
            "regression",
            "resumed run",
            "several evaluation sets",
            "several optimizers",
            "small batches",
            "soft labels",
            "trained to the end",
        }
    ),
}


def half_of(kind: str, *, is_fault: bool) -> Half:
    """The half that a kind belongs to.

    Raises:
        ValueError: the kind is in neither half.
    """
    for half, kinds in (_FAULTS if is_fault else _HEALTHY).items():
        if kind in kinds:
            return half
    what = "fault" if is_fault else "healthy training"
    raise ValueError(
        f"the kind of a {what} must be listed in kinds.py, got {kind!r}; add it to one half before scoring"
    )
