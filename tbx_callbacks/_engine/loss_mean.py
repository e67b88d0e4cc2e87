"""Averages the losses of micro-batches between two points, over the ranks of each batch."""

from __future__ import annotations

import torch
from torch import Tensor

from tbx_callbacks import tags
from tbx_callbacks._stats.accumulators import KEPT, LazySum, add_up, stack_scalars
from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.norms import accumulation_dtype
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.values import BatchMean, Max, Mean, Value

_MOST = 1024
"""Largest number of rows. More batches share rows, in which each sample has the same weight."""


class LossMean:
    """The mean loss of the micro-batches since the last point. Losses stay on their device.

    With one rank it is the mean over micro-batches. With several it is the number that one process would write whose
    micro-batches hold the samples of all ranks.
    """

    def __init__(self) -> None:
        self.is_shared = False
        """Whether other ranks have a share of each micro-batch."""
        self.clear()

    def clear(self) -> None:
        """Begins a new mean."""
        self._sum, self._count, self._knows_samples = LazySum(add_up), 0, False
        self._losses: list[Number | None] = []
        self._samples: list[int] = []
        self._rows: Tensor | None = None  # of earlier micro-batches

    def add(self, loss: Number | None, samples: int) -> None:
        """Adds a micro-batch: its loss, 0-d or a number (see `kept`), and its number of samples.

        The number is 0 if it is unknown, or if this rank has none.
        """
        if not self.is_shared:
            if loss is not None:
                self._sum.pending.append(loss)
                self._count += 1
                if self._count % KEPT == 0:
                    self._sum.total()
            return
        self._count += loss is not None
        self._knows_samples |= samples > 0
        self._losses.append(loss)
        self._samples.append(samples)
        if len(self._losses) >= _MOST:
            self._rows, self._losses, self._samples = _halved(self._all_rows()), [], []

    def values(self) -> dict[str, Value]:
        """Returns the mean by its tag, and with several ranks the largest mean of any rank; empty without a loss."""
        if not self._count:
            return {}
        if not self.is_shared:
            return {tags.TRAIN_LOSS: Mean(self._sum.total(), self._count)}
        rows = self._all_rows()
        weighted, samples, plain, count, batches = rows.unbind(1)
        total, number = (weighted, samples) if self._knows_samples else (plain, count)
        weights = batches * (number > 0)
        own = (weights * (total / number.clamp(min=1)).where(number > 0, 0.0)).sum() / weights.sum()
        return {tags.TRAIN_LOSS: BatchMean(rows.reshape(-1)), tags.TRAIN_LOSS_MAX: Max(own)}

    def _all_rows(self) -> Tensor:
        """Returns the rows of all micro-batches, `[rows, 5]`; see `BatchMean`."""
        if not self._losses:
            assert self._rows is not None
            return self._rows
        present = [loss for loss in self._losses if loss is not None]
        losses = stack_scalars(present) if present else torch.zeros(0)
        losses = losses.to(accumulation_dtype(losses.device))
        sizes = [
            (float(samples), 0.0) if samples and loss is not None else (0.0, float(loss is not None))
            for loss, samples in zip(self._losses, self._samples, strict=True)
        ]
        factors = moved(torch.tensor(sizes, dtype=losses.dtype), losses.device)
        indices = torch.tensor([index for index, loss in enumerate(self._losses) if loss is not None])
        placed = losses.new_zeros(len(self._losses)).index_copy_(0, moved(indices, losses.device), losses)
        # A factor of 0 times NaN would be NaN.
        products = (placed[:, None] * factors).where(factors > 0, 0.0)
        ones = losses.new_ones(len(self._losses))
        rows = torch.stack([products[:, 0], factors[:, 0], products[:, 1], factors[:, 1], ones], 1)
        return rows if self._rows is None else torch.cat([moved(self._rows, rows.device).to(rows.dtype), rows])


def _halved(rows: Tensor) -> Tensor:
    """Adds neighbouring rows until there are few enough, the same number on every rank."""
    while len(rows) > _MOST:
        padded = torch.cat([rows, rows.new_zeros(len(rows) % 2, 5)])
        rows = padded.unflatten(0, (-1, 2)).sum(1)
    return rows
