"""Checks the first batches: labels, predictions and losses."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks._model.outputs import logits_in, predicts_tokens, vocabulary_of
from tbx_callbacks._model.rows import is_plain
from tbx_callbacks._stats.types import Number
from tbx_callbacks._wiring.check import Check
from tbx_callbacks._wiring.modes import batch_norms

STEPS = 3
"""The first steps of a training, in which batches, gradients and the graph are read."""
IGNORED = -100
"""The label that torch's cross entropy leaves out by default."""
_MAX_COMPARED = 2**20  # elements of a batch whose rows are compared
_MIN_LABELS = 32  # for an accuracy of 1 to mean something
_MIN_SORTED = 4  # labels in each batch of data that may be called sorted


class Batches:
    """Adds up the labels, predictions and losses of the first batches. Tensors stay on their device.

    - `labels_ignored`: the share of labels that are -100.
    - `labels_out_of_range`: labels that are no class, in a batch whose step was never made: a loss that accepts them
      has other classes, or ignores them.
    - `first_loss_not_finite`: 1 if the loss of the first batch is not finite.
    - `first_loss_unusual`: the mean cross entropy of the first batch, as a multiple of that of equal probabilities,
      `log(classes)`.
    - `perfect_at_once`: the share of correct predictions.
    - `labels_sorted`: the share of batches whose labels are all equal.
    - `unknown_tokens`: the share of token ids that stand for unknown tokens.
    - `batch_norm_single`: batch normalisations that get one sample at a time.
    - `repeated_batches`: the number of batches, 3 at most, if each one has the same rows, in any order; else 0.

    Args:
        model: the model.
        unknown_token: the id of unknown tokens; None if it is not known.
    """

    def __init__(self, model: nn.Module, *, unknown_token: int | None = None) -> None:
        self._model, self._unknown_token = model, unknown_token
        self._is_language_model = predicts_tokens(model)
        self._vocabulary = vocabulary_of(model)
        self._labels: Number = 0
        self._ignored: Number = 0
        self._outside: Number | None = None
        self._hits: Number = 0
        self._compared: Number = 0
        self._tokens: Number = 0
        self._unknown: Number = 0
        self.num_classes: int | None = None
        """The number of classes, from the logits."""
        self._num_tokens: int | None = None  # the vocabulary, from the logits of a language model
        self._is_sorted: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._num_rows = 0  # of a batch
        self._single_batches = self._sized_batches = self._batches = 0
        self._has_loss = False
        self._cross_entropy: Tensor | None = None  # mean, of the first batch

    def add_labels(self, labels: Any, classes: int | None) -> None:
        """Adds the labels of a batch, before the forward pass: labels outside of the classes may end the training."""
        if not are_class_labels(labels):
            return
        is_ignored = labels == IGNORED
        self._labels = self._labels + labels.numel()
        self._ignored = self._ignored + is_ignored.sum()
        if classes is not None:
            is_outside = ~is_ignored & ((labels < 0) | (labels >= classes))
            self._outside = is_outside.sum() + (0 if self._outside is None else self._outside)
        if labels.ndim == 1 and labels.numel() >= _MIN_SORTED:
            self._is_sorted.append(((labels == labels[0]) & ~is_ignored).all())

    def accept_labels(self) -> None:
        """A step was made with the labels so far: its loss accepts them all."""
        if self._outside is not None:
            self._outside = 0

    def add_outputs(self, outputs: Any, labels: Any) -> None:
        """Adds the predictions of a batch."""
        logits = logits_in(outputs)
        if logits is None or logits.ndim < 2:
            return
        if logits.ndim == 2 and logits.shape[-1] > 1 and not self._is_language_model:
            self.num_classes = logits.shape[-1]
        if self._is_language_model and logits.ndim == 3:
            self._num_tokens = logits.shape[-1]
        if not are_class_labels(labels) or logits.shape[:-1] != labels.shape or self._is_language_model:
            return
        if self._vocabulary is not None and logits.ndim == 3 and logits.shape[-1] >= self._vocabulary:
            return
        labels = labels.to(logits.device)
        counted = labels >= 0
        if self._cross_entropy is None:
            self._cross_entropy = _mean_cross_entropy(logits, labels, counted)
        self._hits = self._hits + (counted & (logits.argmax(-1) == labels)).sum()
        self._compared = self._compared + counted.sum()

    def add_inputs(self, *inputs: Tensor) -> None:
        """Adds the inputs of a batch: tensors with a row for each sample."""
        if not all(map(is_plain, inputs)):
            return
        known = [each for each in inputs if each.ndim and each.numel()]
        if known and sum(each.numel() for each in known) <= _MAX_COMPARED:
            self._rows.append(torch.cat([_projected(each.detach()).to(known[0].device) for each in known]))
            self._num_rows = known[0].shape[0]

    def add_tokens(self, token_ids: Any) -> None:
        """Adds the token ids of a batch."""
        if self._unknown_token is not None and isinstance(token_ids, Tensor) and not token_ids.is_floating_point():
            self._tokens = self._tokens + token_ids.numel()
            self._unknown = self._unknown + (token_ids == self._unknown_token).sum()

    def add_loss(self, loss: Tensor, *, is_cross_entropy: bool, is_mean: bool) -> dict[str, Check]:
        """Adds the loss of a batch; returns the checks of the first one.

        Args:
            loss: the loss.
            is_cross_entropy: whether it contains a cross entropy.
            is_mean: whether it is a mean cross entropy and nothing else.
        """
        if self._has_loss or loss.numel() != 1 or not loss.is_floating_point():
            return {}
        self._has_loss = True
        first = loss.detach().reshape(()).float()
        is_finite = torch.isfinite(first)
        checks = {"first_loss_not_finite": Check((~is_finite).to(torch.float32))}
        cross_entropy = first if is_mean else self._cross_entropy
        if is_cross_entropy and self.num_classes is not None and cross_entropy is not None:
            share = torch.where(torch.isfinite(cross_entropy), cross_entropy / math.log(self.num_classes), -1.0)
            checks["first_loss_unusual"] = Check(share, f"{self.num_classes} classes")
        elif is_cross_entropy and self._num_tokens is not None:  # a low loss only says that it was trained before
            share = torch.where(is_finite, (first / math.log(self._num_tokens)).clamp(min=1.0), -1.0)
            checks["first_loss_unusual"] = Check(share, f"{self._num_tokens} tokens")
        return checks

    def add_samples(self, samples: int | None) -> None:
        """Adds the number of samples of a batch."""
        self._batches += 1
        if samples is not None:
            self._sized_batches += 1
            self._single_batches += samples == 1

    def result(self) -> dict[str, Check]:
        """Returns the checks of all batches that were added."""
        checks: dict[str, Check] = {}
        if not _is_zero(self._labels):
            checks["labels_ignored"] = Check(self._ignored / self._labels)
        if self._outside is not None:
            checks["labels_out_of_range"] = Check(self._outside)
        if not _is_zero(self._compared):
            enough = self._compared >= _MIN_LABELS
            share = self._hits / torch.as_tensor(self._compared).clamp(min=1)
            checks["perfect_at_once"] = Check(torch.where(torch.as_tensor(enough), share, -1.0))
        if self._is_sorted and len(self._is_sorted) >= self._batches - 1:  # the last one may be small
            device = self._is_sorted[0].device
            is_sorted = torch.stack([each.to(device) for each in self._is_sorted]).float()
            checks["labels_sorted"] = Check(is_sorted.mean(), f"{len(self._is_sorted)} batches")
        if not _is_zero(self._tokens):
            checks["unknown_tokens"] = Check(self._unknown / self._tokens)
        if len(self._rows) > 2:
            first = self._rows[0]
            equal = [each.shape == first.shape and (each.to(first.device) == first).all() for each in self._rows[1:]]
            if any(each is False for each in equal):
                checks["repeated_batches"] = Check(0)
            else:
                same = torch.stack([torch.as_tensor(each) for each in equal]).all()
                checks["repeated_batches"] = Check(same * float(STEPS), f"{self._num_rows} rows")
        if self._sized_batches and (norms := batch_norms(self._model)):
            is_single = self._single_batches == self._sized_batches
            checks["batch_norm_single"] = Check(len(norms) if is_single else 0)
        return checks


def classes_of(model: nn.Module) -> int | None:
    """Returns the number of classes from the configuration of a classifier of transformers; None for other models."""
    config = getattr(model, "config", None)
    # Every configuration has `num_labels`; only these heads use it.
    if not type(model).__name__.endswith(("ForSequenceClassification", "ForTokenClassification")):
        return None
    if getattr(config, "problem_type", None) in ("regression", "multi_label_classification"):
        return None
    number = getattr(config, "num_labels", None)
    return number if isinstance(number, int) and number > 1 else None


def are_class_labels(labels: Any) -> bool:
    """Whether these can be class indices, one for each row or token."""
    is_integer = isinstance(labels, Tensor) and labels.dtype in (torch.int64, torch.int32)
    return is_integer and 0 < labels.ndim < 3 and labels.numel() > 0


def _mean_cross_entropy(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Returns the mean cross entropy of the counted labels that are classes, 0-d; NaN without any."""
    classes = logits.shape[-1]
    counted = counted & (labels < classes)
    index = labels.long().clamp(0, classes - 1)[..., None]  # an index out of range would end the process on CUDA
    log_probabilities = logits.float().log_softmax(-1).gather(-1, index)[..., 0]
    return -(log_probabilities * counted).sum() / counted.sum()


def _projected(inputs: Tensor) -> Tensor:
    """Returns one number for each row, `[rows]` and sorted: equal rows have equal numbers, whatever their order."""
    rows = inputs.reshape(inputs.shape[0], -1).double()
    # Fixed numbers that look random: the generators of the training must not be used.
    weights = torch.sin(torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=torch.float64) * 12.9898)
    return (rows * weights).sum(-1).sort().values


def _is_zero(number: Number) -> bool:
    return not isinstance(number, Tensor) and not number
