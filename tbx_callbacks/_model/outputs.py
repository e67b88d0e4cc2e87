"""Reads a model's outputs: further losses, logits, and predictions to compare with labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks._stats.accumulators import LazySum, add_up, common_device
from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.types import Number
from tbx_callbacks.tags import clean

logger = logging.getLogger(__name__)


OUTPUTS = frozenset({"losses", "predictions", "examples", "bad_batches"})
"""Needs of metrics that read the model's outputs."""
_MAX_PENDING = 32  # batches of predictions that are compared together
MAX_CLASSES = 20  # more classes are not counted one by one
_LOG_YOUR_OWN = "remove train_accuracy from the set and log your own number with log()"
_PROBLEMS = {
    "regression": "the model predicts numbers",
    "multi_label_classification": "an input may have several classes",
}


def named_parts(outputs: Any) -> Mapping[Any, Any]:
    """Returns the parts of a mapping, a named tuple or a dataclass by name; empty for other types."""
    if isinstance(outputs, Mapping):
        return outputs
    if isinstance(outputs, tuple) and hasattr(outputs, "_asdict"):
        by_name: Mapping[Any, Any] = outputs._asdict()
        return by_name
    if is_dataclass(outputs):
        return {field.name: getattr(outputs, field.name, None) for field in fields(outputs)}
    return {}


def losses_in(outputs: Any) -> dict[str, Tensor]:
    """Returns every scalar `*loss*` besides `loss`, 0-d and detached, by the model's own name.

    The scalars of a mapping such as `loss_dict` are losses too. Those without `loss` in their name get the mapping's
    name as a prefix: `loss_dict/cardinality_error`.
    """
    losses: dict[str, Tensor] = {}
    for name, value in named_parts(outputs).items():
        if not _names_loss(name):
            continue
        scalars = {name: value}
        if isinstance(value, Mapping):
            scalars = {inner if _names_loss(inner) else f"{name}/{inner}": each for inner, each in value.items()}
        for own_name, each in scalars.items():
            if own_name != "loss" and _is_scalar(each):
                losses.setdefault(own_name, each.detach().reshape(()).to(torch.float32, copy=True))  # memory is reused
    return losses


def _names_loss(name: Any) -> bool:
    return isinstance(name, str) and "loss" in name.lower()


def logits_in(outputs: Any) -> Tensor | None:
    """Returns the detached logits: a single tensor, the output `logits`, or the element after the loss in a tuple.

    A tuple that does not begin with a loss is not read: its elements may be hidden states of the labels' shape.
    """
    logits = named_parts(outputs).get("logits")
    if isinstance(outputs, Tensor):
        logits = outputs
    elif type(outputs) in (tuple, list) and len(outputs) > 1 and _is_scalar(outputs[0]):
        logits = outputs[1]
    return logits.detach() if isinstance(logits, Tensor) and logits.ndim else None


def loss_in(outputs: Any, *, keeps_graph: bool = False) -> Tensor | None:
    """The loss in a model's outputs, 0-d; None without one. Detached, unless the caller reads its graph."""
    if isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    else:
        loss = outputs[0] if isinstance(outputs, tuple) and outputs else getattr(outputs, "loss", None)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        return None
    loss = loss.reshape(()) if loss.ndim else loss
    return loss.detach() if loss.requires_grad and not keeps_graph else loss


def vocabulary_of(model: nn.Module) -> int | None:
    """Returns the vocabulary size from the model's configuration, else the rows of its largest embedding."""
    sizes = (getattr(getattr(module, "config", None), "vocab_size", None) for module in model.modules())
    configured = next((size for size in sizes if isinstance(size, int)), None)
    if configured is not None:
        return configured
    return max((module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)), default=None)


def predicts_tokens(model: nn.Module) -> bool:
    """Whether the model is a language model of transformers: it has a head over its vocabulary."""
    for module in model.modules():
        find_head = getattr(type(module), "get_output_embeddings", None)
        if callable(find_head) and getattr(module, "config", None) is not None:
            try:
                return find_head(module) is not None
            except (AttributeError, NotImplementedError):  # transformers raises where a model has no such head
                return False
    return False


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()


class Losses:
    """Sums every scalar `*loss*` that a model returns besides `loss`, until the next point. No host sync."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[LazySum, int]] = {}

    def add(self, outputs: Any) -> None:
        """Adds the losses of a micro-batch."""
        for name, value in losses_in(outputs).items():
            total, count = self._sums.get(name) or (LazySum(add_up), 0)
            total.add(value)
            self._sums[name] = total, count + 1

    def pop(self) -> dict[str, tuple[Number, int]]:
        """Returns sum and count of each loss since the last point, by name, and resets them."""
        sums = {clean(name): (total.total(), count) for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return sums


class Predictions:
    """Counts correct predictions of a classification head, per input or per token, and its classes. No host sync.

    Args:
        model: the model; logits over its vocabulary are not classes, and may be shifted against their labels.
        remedy: tells the user how to provide logits and labels.
        warns: whether this rank warns when it cannot compute an accuracy.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        remedy: str = "pass both to Session.record_outputs()",
        *,
        warns: bool = True,
    ) -> None:
        self._model = model
        self._vocabulary = vocabulary_of(model) if model is not None else None
        self._how_to_provide = remedy
        self._reason, self._remedy = "no outputs of the model were found", remedy
        self._has_predictions, self._has_warned = False, not warns
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._hits: Number = 0
        self._labels: Number = 0
        self._num_classes: int | None = None  # of the first logits; 0 if the classes are not counted
        self._class_counts: Tensor | None = None

    def add(self, outputs: Any, labels: Any) -> None:
        """Adds the logits of a micro-batch, `[batch, classes]` or `[batch, length, classes]`, and its labels.

        Labels are `[batch]` or `[batch, length]`; negative labels (-100) do not count. Other shapes are ignored.
        """
        logits = logits_in(outputs)
        if (no_classes := self.why_no_classes(outputs, logits)) is not None:
            self._reason, self._remedy = no_classes, _LOG_YOUR_OWN
            return
        if logits is None or not isinstance(labels, Tensor):
            self._reason = (
                "the model's outputs have no `logits`" if logits is None else "no labels of the batch were found"
            )
            self._remedy = self._how_to_provide
            return
        if not are_classes(logits, labels):
            self._reason = f"labels {_summary(labels)} are not class indices for logits {_summary(logits)}"
            self._remedy = _LOG_YOUR_OWN
            return
        self._has_predictions = True
        classes = logits.shape[-1]
        if self._num_classes is None:
            self._num_classes = classes if classes <= MAX_CLASSES else 0
        elif classes != self._num_classes:  # heads of different sizes have no classes in common
            self._num_classes = 0
        self._pending.append(
            (logits.argmax(-1).flatten(), labels)
        )  # argmax now, because the model may reuse the memory
        if len(self._pending) >= _MAX_PENDING:
            self.totals()

    @property
    def remedy(self) -> str:
        """How the user provides logits and labels."""
        return self._how_to_provide

    def why_no_classes(self, outputs: Any, logits: Tensor | None) -> str | None:
        """Why accuracy has no meaning for this model, whatever its labels are; None if it may have one."""
        if logits is not None and logits.ndim == 3 and self._vocabulary is not None:
            if logits.shape[-1] >= self._vocabulary:
                return "logits are over the vocabulary"
        elif logits is not None and logits.ndim < 3 and logits.shape[-1] == 1:
            return "the model has a single output"
        if logits is None and self._model is not None and predicts_tokens(self._model):
            return "a language model has no classes"
        others = [name for name in named_parts(outputs) if isinstance(name, str) and name.endswith("_logits")]
        if logits is None and others:
            return f"{others[0]} is not one class for each input"
        problem = getattr(getattr(self._model, "config", None), "problem_type", None)
        return _PROBLEMS.get(problem) if isinstance(problem, str) else None

    def warn_if_empty(self) -> None:
        """Warns once, at a point, if there is nothing to write, and gives the reason."""
        if not (self._has_predictions or self._has_warned):
            self._has_warned = True
            if self._model is not None and self._remedy == self._how_to_provide and predicts_tokens(self._model):
                self._reason, self._remedy = "a language model has no classes", _LOG_YOUR_OWN
            logger.warning("train/accuracy is not written: %s; remedy: %s", self._reason, self._remedy)

    def totals(self) -> tuple[Number, Number]:
        """Returns the number of correct predictions and of labels so far."""
        if self._pending:
            batches, self._pending = self._pending, []  # clear first, so that an error does not recur
            target_device = common_device([tensor for pair in batches for tensor in pair])
            predictions = torch.cat([moved(tensor_of, target_device) for tensor_of, _ in batches])
            labels = torch.cat([moved(tensor_of.flatten(), target_device).to(torch.int64) for _, tensor_of in batches])
            is_counted = labels >= 0
            self._hits = self._hits + (is_counted & (predictions == labels)).sum()
            self._labels = self._labels + is_counted.sum()
            if self._num_classes:
                counts = _count_classes((predictions, labels), is_counted, self._num_classes)
                self._class_counts = counts if self._class_counts is None else self._class_counts + counts
        return self._hits, self._labels

    def class_totals(self) -> Tensor | None:
        """Returns the counts of each class among predictions and among labels, `[2, classes]`; None if not counted."""
        self.totals()
        return self._class_counts


def _count_classes(classes: Sequence[Tensor], is_counted: Tensor, number: int) -> Tensor:
    """Counts each class, `[len(classes), number]`, without a host sync, which bincount needs."""
    ones = is_counted.to(torch.int64)
    zeros = ones.new_zeros(number)
    return torch.stack([zeros.scatter_add(0, each.clamp(0, number - 1), ones) for each in classes])


def are_classes(logits: Tensor, labels: Tensor) -> bool:
    """Whether labels are class numbers for logits, `[batch, classes]` or `[batch, length, classes]`."""
    is_integer = not labels.is_floating_point() and labels.dtype != torch.bool
    return is_integer and logits.ndim in (2, 3) and logits.shape[:-1] == labels.shape and logits.shape[-1] > 1


def _summary(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
