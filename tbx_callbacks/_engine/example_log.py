"""Defines `ExampleLog`, which writes the rows of training batches to a file of this rank beside the run."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from tbx_callbacks._distributed.background_worker import Worker
from tbx_callbacks._engine.row_texts import RowTexts
from tbx_callbacks._model.examples import NO_LABEL, ExampleBatch
from tbx_callbacks._model.rows import Rows, is_fingerprint, key_columns, keys_of
from tbx_callbacks._stats.host_copy import HostCopy
from tbx_callbacks._text import reason
from tbx_callbacks.runs import json_lines
from tbx_callbacks.runs.examples import file_of, files_in

logger = logging.getLogger(__name__)

_MAX_JOBS = 100  # for the thread; more batches are left out, for the training must not wait
_MAX_WAITING = 1 << 23  # bytes that wait in memory while the file cannot be written
_DIGITS = 5  # of a loss


class ExampleLog:
    """Appends the rows of each micro-batch to a file, on a thread of its own. The training waits for nothing.

    All rows of a run have ids, or all have fingerprints: a row would count twice otherwise. Others are left out.

    Args:
        folder: of the run.
        rank: of this process.
        ranks: the number of ranks.
        step: finished steps; rows of later ones, which a resumed training sees again, are removed from the files.
        limit: the largest size of the file, in bytes.
        texts: reads the rows' texts; None if they are not kept.
    """

    def __init__(
        self, folder: str, rank: int, *, ranks: int = 1, step: int = 0, limit: int, texts: RowTexts | None = None
    ) -> None:
        self._folder, self._path = folder, file_of(folder, rank)
        self._limit, self._texts = limit, texts
        self._worker = Worker("tbx_callbacks examples", self._on_error)
        self._waiting = b""  # lines that could not be written
        self._size = 0
        self._warned: set[str] = set()
        self._lost = 0
        self._are_ids: bool | None = None  # the keys so far
        paths = files_in(folder)
        own = [path for other, path in paths.items() if other == rank or (rank == 0 and other >= ranks)]
        self._worker.submit(partial(self._start, own, list(paths.values()), step))

    def record(self, batches: Sequence[ExampleBatch]) -> None:
        """Writes the rows of micro-batches, later. No host sync."""
        if self._worker.pending >= _MAX_JOBS:
            self._warn("slow", "rows of some steps are not recorded by examples: the file is written too slowly")
            return
        tensors: list[Tensor] = []
        for batch in batches:
            results = batch.results
            tensors += [results.losses, results.labels, results.predicted, *key_columns(batch.rows)]
            tensors += [batch.rows.groups] if isinstance(batch.rows.groups, Tensor) else []
            tensors += self._texts.tensors(batch.rows) if self._texts is not None else []
        copy = HostCopy(tensors)
        described = [(batch.step, batch.rows) for batch in batches]
        self._worker.submit(partial(self._write, described, copy))

    def close(self, seconds: float) -> None:
        """Writes what is left, waits for that, and ends the thread."""
        self._worker.submit(partial(self._append, b""))
        if not self._worker.drain(seconds):
            self._warn("slow", "rows of some steps are not recorded by examples: the file is written too slowly")
        self._worker.close(1.0)
        if self._lost or self._waiting:
            lost = self._lost + self._waiting.count(b"\n")
            logger.warning("rows of %d micro-batches were not written to %s", lost, self._path)
            self._lost, self._waiting = 0, b""

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _start(self, own: Sequence[str], paths: Sequence[str], step: int) -> None:
        for path in own:
            json_lines.cut(path, step)
        kinds = (_are_ids(path, step) for path in [self._path, *paths])
        self._are_ids = next((kind for kind in kinds if kind is not None), None)
        self._size = json_lines.size_of(self._path)

    def _write(self, batches: Sequence[tuple[int, Rows]], copy: HostCopy) -> None:
        columns = iter(copy.read())
        lines = []
        for step, rows in batches:
            losses, labels, predicted = next(columns), next(columns), next(columns)
            keys = keys_of(rows, columns)
            groups: Sequence[object] | None = None
            if rows.groups is not None:
                groups = [int(number) for number in next(columns)] if isinstance(rows.groups, Tensor) else rows.groups
            texts = self._texts.read(rows, keys, columns) if self._texts is not None else {}
            kept = [index for index, class_ in enumerate(labels) if class_ != NO_LABEL]
            if kept and not self._fits(rows):
                continue
            fields: dict[str, object] = {
                "rows": [keys[index] for index in kept],
                "losses": [_rounded(losses[index]) for index in kept],
                "labels": [int(labels[index]) for index in kept],
                "predicted": [int(predicted[index]) for index in kept],
            }
            if groups is not None:
                fields["groups"] = [groups[index] for index in kept]
            if texts:
                fields["texts"] = texts
            if kept:
                lines.append(json_lines.line_of(step, **fields))
        self._append(b"".join(lines))

    def _fits(self, rows: Rows) -> bool:
        """Whether the rows have keys of the kind that the run has, with one warning if not."""
        if self._are_ids is None:
            self._are_ids = rows.are_ids
        if rows.are_ids != self._are_ids:
            now, before = ("ids", "fingerprints") if rows.are_ids else ("fingerprints", "ids")
            self._warn(
                "keys",
                f"rows are left out of examples: they have {now} now, and {before} before in {self._folder};"
                " pass the columns as before, or use a new log_dir",
            )
        return rows.are_ids == self._are_ids

    def _append(self, lines: bytes) -> None:
        lines = self._waiting + lines
        if not lines:
            return
        if self._size + len(lines) > self._limit:
            self._waiting, self._lost = b"", self._lost + lines.count(b"\n")
            self._warn("limit", f"rows are no longer recorded: {self._path} has reached limit_mib; raise it")
            return
        try:
            json_lines.append(self._path, lines)
        except OSError as error:
            self._waiting = lines if len(lines) < _MAX_WAITING else b""
            self._lost += 0 if self._waiting else lines.count(b"\n")
            self._warn(
                "disk", f"rows of examples wait in memory, because their file cannot be written: {reason(error)}"
            )
        else:
            self._waiting = b""
            self._size = json_lines.size_of(self._path)

    def _on_error(self, error: BaseException) -> None:
        self._warn("error", f"rows of some steps are not recorded by examples: {reason(error)}")

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s", message)


def _are_ids(path: str, step: int) -> bool | None:
    """Whether the first line of a file has ids; None if it has none up to this step."""
    with contextlib.suppress(OSError):
        first = next(json_lines.read(path, lambda: None), None)
        keys = [] if first is None or first["step"] > step else first.get("rows")
        if isinstance(keys, list) and keys and isinstance(keys[0], str):
            return not is_fingerprint(keys[0])
    return None


def _rounded(loss: float) -> float | None:
    return float(f"{loss:.{_DIGITS}g}") if math.isfinite(loss) else None
