"""Collects the loss and the prediction of each row of a classifier's training batches. No host sync."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._model.outputs import Predictions, are_classes, logits_in
from tbx_callbacks._model.parameters import PerGroup
from tbx_callbacks._model.rows import Rows
from tbx_callbacks._stats.accumulators import common_device
from tbx_callbacks._stats.flat import moved
from tbx_callbacks.tags import clean

logger = logging.getLogger(__name__)

NO_LABEL = -1
"""The label of a row that has none."""
_LEAVE_OUT = "remove the metric from the set"
_ROWS_REMEDY = "keep input_ids or a column such as idx in the batch; in a loop pass batch=... to end_step"
_MAX_PENDING = 64  # micro-batches that are passed on together
MAX_GROUPS = 64
"""Groups of rows whose losses are added up."""


@dataclass(frozen=True)
class RowLosses:
    """What a classifier predicted for the rows of a micro-batch; tensors `[rows]` on one device."""

    losses: Tensor
    """Cross entropy, float32; 0 for rows without a label."""
    labels: Tensor
    """Class numbers, int64; `NO_LABEL` for rows without one."""
    predicted: Tensor
    """Class numbers, int64."""


@dataclass(frozen=True)
class ExampleBatch:
    """The rows of one micro-batch of a step, and what was predicted for them."""

    step: int
    rows: Rows
    results: RowLosses


@torch.no_grad()
def row_losses(logits: Tensor, labels: Tensor) -> RowLosses:
    """Returns the cross entropy of each row, without label smoothing and class weights.

    Args:
        logits: `[rows, classes]`, detached, of any floating-point type.
        labels: `[rows]`; those that are no classes, such as -100, are no labels.
    """
    device = common_device([logits, labels])  # a copy to the host would wait
    logits, labels = moved(logits, device), moved(labels.detach(), device).to(torch.int64)
    classes = logits.shape[-1]
    has_label = (labels >= 0) & (labels < classes)
    index = labels.clamp(0, classes - 1)[:, None]  # an index out of range would end the process on CUDA
    losses = -logits.float().log_softmax(-1).gather(-1, index)[:, 0]
    # torch.where, because a product with NaN is NaN.
    return RowLosses(torch.where(has_label, losses, 0.0), torch.where(has_label, labels, NO_LABEL), logits.argmax(-1))


def classified(predictions: Predictions, outputs: Any, labels: Any) -> RowLosses | None:
    """What a classifier predicted for the rows of a micro-batch; None for other models, or without logits or labels."""
    return row_losses(logits_in(outputs), labels) if _no_classes(predictions, outputs, labels) is None else None  # type: ignore[arg-type]


def _no_classes(predictions: Predictions, outputs: Any, labels: Any) -> tuple[str, str] | None:
    """Why rows have no loss, and the remedy; None if they have one."""
    logits = logits_in(outputs)
    if (no_classes := predictions.why_no_classes(outputs, logits)) is not None:
        return no_classes, _LEAVE_OUT
    if logits is None or not isinstance(labels, Tensor):
        missing = "the model's outputs have no `logits`" if logits is None else "no labels of the batch were found"
        return missing, predictions.remedy
    if logits.ndim != 2 or not are_classes(logits, labels):
        return "labels are not one class for each row", _LEAVE_OUT
    return None


class Examples:
    """Collects the rows of training batches, and passes them on several at a time.

    Args:
        sink: receives the micro-batches; None if they are only added up by group.
        predictions: knows which outputs are classes.
        group_by: the column by which the mean loss is computed; None without one.
        warns: whether this rank logs warnings.
    """

    def __init__(
        self,
        sink: Callable[[Sequence[ExampleBatch]], None] | None,
        predictions: Predictions,
        *,
        group_by: str | None = None,
        warns: bool = True,
    ) -> None:
        self._sink, self._predictions = sink, predictions
        self._group_by, self._has_warned = group_by, not warns
        self._pending: list[ExampleBatch] = []
        self._reason, self._has_rows, self._has_groups = "no outputs of the model were found", False, False
        self._remedy = predictions.remedy
        self._names: dict[str, int] = {}
        self._sums: Tensor | None = None  # [2, MAX_GROUPS]: losses and rows since the last point, by group

    def add(self, step: int, outputs: Any, labels: Any, rows: Rows | None) -> RowLosses | None:
        """Adds a micro-batch of a step: its outputs, `[rows]` labels and rows; returns the losses of the rows."""
        problem = _no_classes(self._predictions, outputs, labels)
        if problem is None and (rows is None or len(rows) != len(labels)):
            problem = "the rows of a batch cannot be told apart", _ROWS_REMEDY
        if problem is not None or rows is None:
            self._reason, self._remedy = problem or ("", "")
            return None
        self._has_rows = True
        results = row_losses(logits_in(outputs), labels)  # type: ignore[arg-type]
        if self._sink is not None:
            self._pending.append(ExampleBatch(step, rows, results))
        if rows.groups is not None:
            self._has_groups = True
            self._add_groups(results, rows.groups)
        if len(self._pending) >= _MAX_PENDING:
            self.flush()
        return results

    def flush(self) -> None:
        """Passes on the micro-batches so far."""
        pending, self._pending = self._pending, []
        if pending and self._sink is not None:
            self._sink(pending)

    def warn_if_empty(self) -> None:
        """Warns once, at a point, if there are no rows or no groups, and gives the reason."""
        if self._has_warned:
            return
        if not self._has_rows:
            self._has_warned = True
            logger.warning("rows are not recorded: %s; remedy: %s", self._reason, self._remedy)
        elif self._group_by is not None and not self._has_groups:
            self._has_warned = True
            logger.warning(
                "examples/loss is not written: batches have no column %s of whole numbers or texts; keep the column in"
                " the batch (remove_unused_columns=False)",
                self._group_by,
            )

    def pop_groups(self) -> tuple[PerGroup, PerGroup] | None:
        """Returns sums of losses and numbers of rows by group since the last point; None without any."""
        sums, self._sums = self._sums, None
        if sums is None:
            return None
        known = list(self._names) or [str(number) for number in range(MAX_GROUPS)]
        names = tuple(known)
        return PerGroup(names, sums[0, : len(names)]), PerGroup(names, sums[1, : len(names)])

    def _add_groups(self, results: RowLosses, groups: Tensor | tuple[str, ...]) -> None:
        """Adds losses by group: whole numbers below `MAX_GROUPS`, or the first texts; without a host sync."""
        device = results.losses.device
        if isinstance(groups, tuple):
            for name in map(_group_name, groups):
                if len(self._names) < MAX_GROUPS:
                    self._names.setdefault(name, len(self._names))
            index = moved(torch.tensor([self._names.get(_group_name(name), -1) for name in groups]), device)
        else:
            device = common_device([results.losses, groups])
            index = moved(groups, device)
        losses, labels = moved(results.losses, device), moved(results.labels, device)
        is_counted = (labels != NO_LABEL) & (index >= 0) & (index < MAX_GROUPS)
        wide = torch.float32 if device.type == "mps" else torch.float64
        parts = torch.stack([torch.where(is_counted, losses, 0.0).to(wide), is_counted.to(wide)])
        sums = parts.new_zeros(2, MAX_GROUPS).scatter_add(1, index.clamp(0, MAX_GROUPS - 1).expand(2, -1), parts)
        if self._sums is not None:
            device = common_device([self._sums, sums])
            sums = moved(self._sums, device) + moved(sums, device)
        self._sums = sums


def _group_name(name: str) -> str:
    return clean(name).lstrip("/") or "_"
