"""Defines `BatchFiles`, which writes the batches of bad steps to files beside the run."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from tbx_callbacks._distributed.background_worker import Worker
from tbx_callbacks._engine.batch_keeper import BadStep, KeptMicroBatch
from tbx_callbacks._engine.row_texts import RowTexts
from tbx_callbacks._model.examples import NO_LABEL
from tbx_callbacks._model.rows import Rows, UnreadRows, key_columns, keys_of
from tbx_callbacks._stats.host_copy import HostCopy
from tbx_callbacks._text import reason
from tbx_callbacks.runs import bad_batches
from tbx_callbacks.runs.bad_batches import BadBatch, BadRow, MicroBatch

logger = logging.getLogger(__name__)

_MOST_IN_A_ROW = 3
_MAX_ROWS = 256  # of a micro-batch
_MAX_JOBS = 20  # for the thread; more batches are left out, for the training must not wait


class BatchFiles:
    """Writes one file for each bad step, on a thread of its own, up to a limit.

    Args:
        folder: of the run.
        rank: of this process.
        ranks: the number of ranks.
        step: finished steps; files of later ones, which a resumed training makes again, are removed.
        limit: the largest number of files of a rank.
        texts: reads the rows' texts; None if they are not kept.
        warns: whether this rank logs warnings.
    """

    def __init__(
        self,
        folder: str,
        rank: int,
        *,
        ranks: int = 1,
        step: int = 0,
        limit: int,
        texts: RowTexts | None = None,
        warns: bool = True,
    ) -> None:
        self._folder, self._rank, self._limit, self._texts, self._warns = folder, rank, limit, texts, warns
        self._worker = Worker("tbx_callbacks batches", self._on_error)
        self.found = 0
        """Bad steps so far; of earlier parts of a resumed training those whose batches were kept."""
        self._kept = {True: 0, False: 0}  # of spikes, and of steps that are not finite
        self._last = step  # the last step that was not finite
        self._in_a_row = 0  # such steps, one after the other
        self._warned: set[str] = set()
        for other_step, by_rank in bad_batches.files_in(folder).items():
            for other, path in by_rank.items():
                if other_step > step and (other == rank or (rank == 0 and other >= ranks)):
                    with contextlib.suppress(OSError):
                        os.remove(path)
                self.found += other_step <= step and other == rank
        self._kept[True] = self.found

    def keep(self, bad: BadStep) -> None:
        """Writes the batch of a bad step, later. No host sync."""
        self.found += 1
        if self._follows_from_others(bad):
            return
        if self._kept[bad.is_finite] >= self._limit or self._worker.pending >= _MAX_JOBS:
            if self._warns:
                kind = "limit of spikes" if bad.is_finite else "limit"
                self._warn(kind, f"further batches of such steps are not kept: {self._limit} are; raise `keep`")
            return
        self._kept[bad.is_finite] += 1
        if self._warns:
            self._warn(
                "first spike" if bad.is_finite else "first that is not finite",
                f"the batch of step {bad.step} is kept, because {bad.reasons[0]};"
                f" see: tbx-callbacks batch {self._folder} {bad.step}",
            )
        read = [_read(each, with_tokens=self._texts is not None) for each in bad.micro_batches]
        if self._warns and None in read and any(map(_is_overwritten, bad.micro_batches)):
            self._warn(
                "overwritten", f"rows of step {bad.step} are left out: a later batch has overwritten their memory"
            )
        tensors = [
            tensor for each, rows in zip(bad.micro_batches, read, strict=True) for tensor in self._tensors(each, rows)
        ]
        self._worker.submit(partial(self._write, bad, read, HostCopy(tensors)))

    def _follows_from_others(self, bad: BadStep) -> bool:
        """Whether the step is one of many in a row that are not finite: the weights are broken, not its batch."""
        if bad.is_finite:
            return False
        self._in_a_row = self._in_a_row + 1 if self._last == bad.step - 1 else 1
        self._last = bad.step
        return self._in_a_row > _MOST_IN_A_ROW

    def close(self, seconds: float) -> None:
        """Waits until all files are written, and ends the thread."""
        self._worker.drain(seconds)
        self._worker.close(1.0)

    def _tensors(self, each: KeptMicroBatch, rows: Rows | None) -> list[Tensor]:
        results = each.results
        numbers = [] if results is None else [results.losses, results.labels, results.predicted]
        if rows is None:
            return numbers
        texts = [] if self._texts is None else self._texts.tensors(rows)
        return [*numbers, *key_columns(rows), *texts]

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _write(self, bad: BadStep, read: Sequence[Rows | None], copy: HostCopy) -> None:
        columns = iter(copy.read())
        micro_batches = [
            MicroBatch(each.number, loss, self._rows(each, rows, columns)[:_MAX_ROWS])
            for each, rows, loss in zip(bad.micro_batches, read, bad.losses, strict=True)
        ]
        path = bad_batches.file_of(self._folder, bad.step, self._rank)
        bad_batches.write(path, BadBatch(bad.step, self._rank, bad.reasons, micro_batches))

    def _rows(self, each: KeptMicroBatch, rows: Rows | None, columns: Iterator[Sequence[float]]) -> list[BadRow]:
        losses: Sequence[float] = ()
        labels: Sequence[float] = ()
        predicted: Sequence[float] = ()
        if each.results is not None:
            losses, labels, predicted = next(columns), next(columns), next(columns)
        keys = [f"row {n + 1}" for n in range(len(losses))] if rows is None else keys_of(rows, columns)
        texts = [] if rows is None or self._texts is None else self._texts.read_all(rows, columns)
        made = []
        for index, key in enumerate(keys):
            text = texts[index] if index < len(texts) else None
            if index >= len(losses):
                made.append(BadRow(key, text=text))
            elif labels[index] == NO_LABEL:
                made.append(BadRow(key, predicted=int(predicted[index]), text=text))
            else:
                made.append(BadRow(key, losses[index], int(labels[index]), int(predicted[index]), text))
        return made

    def _on_error(self, error: BaseException) -> None:
        self._warn("error", f"the batch of a bad step is not kept: {reason(error)}")

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s", message)


def _read(each: KeptMicroBatch, *, with_tokens: bool) -> Rows | None:
    return each.rows.read(with_tokens=with_tokens) if isinstance(each.rows, UnreadRows) else each.rows


def _is_overwritten(each: KeptMicroBatch) -> bool:
    return isinstance(each.rows, UnreadRows) and each.rows.is_overwritten
