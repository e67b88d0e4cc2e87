"""What a model returns for a micro-batch beside its loss: further losses, and predictions to compare with labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks.deferred import Deferred, add_up
from tbx_callbacks.names import clean
from tbx_callbacks.stats.flat import moved
from tbx_callbacks.values import Mean, Number

logger = logging.getLogger(__name__)

OUTPUTS = frozenset({"losses", "predictions"})
"""Needs of metrics that read what the model returns."""

_KEPT = 32  # batches of predictions that are compared together


class Losses:
    """Every scalar `*loss*` that a model returns beside `loss`, added up until the next point. No host sync."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Deferred, int]] = {}

    def add(self, outputs: Any) -> None:
        """Takes the losses of a micro-batch."""
        if not isinstance(outputs, Mapping):
            return
        for name, value in outputs.items():
            if isinstance(name, str) and "loss" in name.lower() and name != "loss" and _is_scalar(value):
                total, count = self._sums.get(name) or (Deferred(add_up), 0)
                total.add(value.detach().reshape(()).to(torch.float32, copy=True))  # its memory may be used again
                self._sums[name] = total, count + 1

    def take(self) -> dict[str, Mean]:
        """Their means since the last point, by name; the next ones start anew."""
        means = {clean(name): Mean(total.total(), count) for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means


class Predictions:
    """Counts right predictions of a classification head: of whole inputs, or of their tokens. No host sync.

    Args:
        model: the model; logits over its vocabulary are not classes, and may be shifted against their labels.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._vocabulary = _vocabulary(model) if model is not None else None
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._hits: Number = 0
        self._labels: Number = 0
        self._said = False

    def add(self, outputs: Any, labels: Any) -> None:
        """Takes the logits `[batch, classes]` or `[batch, length, classes]` of a micro-batch and its labels.

        Labels are `[batch]` or `[batch, length]`; those below 0 (-100) do not count. Anything else is passed over.
        """
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else outputs
        if not (isinstance(logits, Tensor) and isinstance(labels, Tensor)) or not _are_classes(logits, labels):
            return
        if logits.ndim == 3 and logits.shape[-1] == self._vocabulary:
            if not self._said:
                self._said = True
                logger.warning("train/accuracy is for classification heads; logits over the vocabulary are left out")
            return
        self._kept.append((logits.detach().argmax(-1).flatten(), labels))  # now: their memory may be used again
        if len(self._kept) >= _KEPT:
            self.totals()

    def totals(self) -> tuple[Number, Number]:
        """Right predictions and labels so far."""
        if self._kept:
            kept, self._kept = self._kept, []  # an error is not met again
            home = kept[0][0].device
            guesses = torch.cat([moved(each, home) for each, _ in kept])
            labels = torch.cat([moved(each.flatten(), home).to(torch.int64) for _, each in kept])
            counted = labels >= 0
            self._hits = self._hits + (counted & (guesses == labels)).sum()
            self._labels = self._labels + counted.sum()
        return self._hits, self._labels


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()


def _are_classes(logits: Tensor, labels: Tensor) -> bool:
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    return whole and logits.ndim in (2, 3) and logits.shape[:-1] == labels.shape and logits.shape[-1] > 1


def _vocabulary(model: nn.Module) -> int | None:
    sizes = (getattr(getattr(module, "config", None), "vocab_size", None) for module in model.modules())
    return next((size for size in sizes if isinstance(size, int)), None)
