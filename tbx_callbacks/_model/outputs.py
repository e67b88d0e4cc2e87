"""Reads a model's outputs: further losses, logits, and predictions to compare with labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks._stats.accumulators import LazySum, add_up, common_device
from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.types import Number
from tbx_callbacks.tags import clean


def named_outputs(outputs: Any) -> Mapping[Any, Any]:
    """What a model returned, by name: a mapping, a named tuple, a dataclass; nothing for tensors and plain tuples."""
    if isinstance(outputs, Mapping):
        return outputs
    if isinstance(outputs, tuple) and hasattr(outputs, "_asdict"):
        found: Mapping[Any, Any] = outputs._asdict()
        return found
    if is_dataclass(outputs):
        return {field.name: getattr(outputs, field.name, None) for field in fields(outputs)}
    return {}


def losses_in(outputs: Any) -> dict[str, Tensor]:
    """Every scalar `*loss*` beside `loss`, 0-d and detached, by the model's own name."""
    return {
        name: value.detach().reshape(()).to(torch.float32, copy=True)  # its memory may be used again
        for name, value in named_outputs(outputs).items()
        if isinstance(name, str) and "loss" in name.lower() and name != "loss" and _is_scalar(value)
    }


def logits_in(outputs: Any) -> Tensor | None:
    """The logits, detached: a tensor alone, what is named `logits`, or what follows the loss in a tuple.

    A tuple that does not begin with its loss may hold anything: hidden states with as many places as labels, too.
    """
    found = named_outputs(outputs).get("logits")
    if isinstance(outputs, Tensor):
        found = outputs
    elif type(outputs) in (tuple, list) and len(outputs) > 1 and _is_scalar(outputs[0]):
        found = outputs[1]
    return found.detach() if isinstance(found, Tensor) and found.ndim else None


def vocabulary_of(model: nn.Module) -> int | None:
    """Number of words that a model knows: of its configuration, or else the rows of its largest embedding."""
    sizes = (getattr(getattr(module, "config", None), "vocab_size", None) for module in model.modules())
    said = next((size for size in sizes if isinstance(size, int)), None)
    if said is not None:
        return said
    return max((module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)), default=None)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()


logger = logging.getLogger(__name__)

OUTPUTS = frozenset({"losses", "predictions"})
"""Needs of metrics that read what the model returns."""

_KEPT = 32  # batches of predictions that are compared together
_OWN = "leave train_accuracy out of the set, and log a number of your own with log()"


class Losses:
    """Every scalar `*loss*` that a model returns beside `loss`, added up until the next point. No host sync."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[LazySum, int]] = {}

    def add(self, outputs: Any) -> None:
        """Takes the losses of a micro-batch."""
        for name, value in losses_in(outputs).items():
            total, count = self._sums.get(name) or (LazySum(add_up), 0)
            total.add(value)
            self._sums[name] = total, count + 1

    def pop(self) -> dict[str, tuple[Number, int]]:
        """Sum and count of each since the last point, by name; the next ones start anew."""
        sums = {clean(name): (total.total(), count) for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return sums


class Predictions:
    """Counts right predictions of a classification head: of whole inputs, or of their tokens. No host sync.

    Args:
        model: the model; logits over its vocabulary are not classes, and may be shifted against their labels.
        remedy: how the user can show logits and labels.
        warns: whether this rank warns where no accuracy can be counted.
    """

    def __init__(
        self, model: nn.Module | None = None, remedy: str = "give both to Monitor.outputs", *, warns: bool = True
    ) -> None:
        self._vocabulary = vocabulary_of(model) if model is not None else None
        self._shown = remedy
        self._why, self._remedy = "the model's outputs were not seen", remedy
        self._any, self._said = False, not warns
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._hits: Number = 0
        self._labels: Number = 0

    def add(self, outputs: Any, labels: Any) -> None:
        """Takes the logits `[batch, classes]` or `[batch, length, classes]` of a micro-batch and its labels.

        Labels are `[batch]` or `[batch, length]`; those below 0 (-100) do not count. Anything else is passed over.
        """
        logits = logits_in(outputs)
        if logits is None or not isinstance(labels, Tensor):
            self._why = (
                "the model's outputs hold no `logits`" if logits is None else "labels of the batch were not seen"
            )
            self._remedy = self._shown
            return
        if not _are_classes(logits, labels):
            self._why = f"labels {_form(labels)} are not classes of logits {_form(logits)}"
            self._remedy = _OWN
            return
        if logits.ndim == 3 and self._vocabulary is not None and logits.shape[-1] >= self._vocabulary:
            self._why = "logits are over the vocabulary, and a language model's may be shifted against their labels"
            self._remedy = _OWN
            return
        self._any = True
        self._kept.append((logits.argmax(-1).flatten(), labels))  # now: their memory may be used again
        if len(self._kept) >= _KEPT:
            self.totals()

    def warn_if_empty(self) -> None:
        """Says once, at a point, why there is nothing to write."""
        if not (self._any or self._said):
            self._said = True
            logger.warning("train/accuracy is not written: %s; remedy: %s", self._why, self._remedy)

    def totals(self) -> tuple[Number, Number]:
        """Right predictions and labels so far."""
        if self._kept:
            kept, self._kept = self._kept, []  # an error is not met again
            home = common_device([tensor for pair in kept for tensor in pair])
            guesses = torch.cat([moved(each, home) for each, _ in kept])
            labels = torch.cat([moved(each.flatten(), home).to(torch.int64) for _, each in kept])
            counted = labels >= 0
            self._hits = self._hits + (counted & (guesses == labels)).sum()
            self._labels = self._labels + counted.sum()
        return self._hits, self._labels


def _are_classes(logits: Tensor, labels: Tensor) -> bool:
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    return whole and logits.ndim in (2, 3) and logits.shape[:-1] == labels.shape and logits.shape[-1] > 1


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
