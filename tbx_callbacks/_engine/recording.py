"""Defines `Recording`, which records the rows of one training's batches for the metrics of a set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._engine.batch_files import BatchFiles
from tbx_callbacks._engine.batch_keeper import BatchKeeper
from tbx_callbacks._engine.example_log import ExampleLog
from tbx_callbacks._engine.row_texts import RowTexts
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.examples import Examples, classified
from tbx_callbacks._model.outputs import Predictions, logits_in, loss_in
from tbx_callbacks._model.rows import LateRows, Rows, rows_in, unread_ids
from tbx_callbacks._text import reason
from tbx_callbacks.metrics.bad_batches import BadBatches as BadBatchesMetric
from tbx_callbacks.metrics.examples import Examples as ExamplesMetric
from tbx_callbacks.runs.folders import is_remote

logger = logging.getLogger(__name__)

NEEDS = frozenset({"examples", "bad_batches"})
"""Needs of metrics that read the rows of batches."""
_CLOSE_SECONDS = 10.0  # maximum wait for the files at the end of a training
M = TypeVar("M")


class Recording:
    """Records the rows of this rank's batches, for the metrics `examples` and `bad_batches`.

    Args:
        items: the metrics of the set.
        info: describes the training.
        predictions: knows which outputs are classes.
        reducer: reduces over ranks, all of which create a `Recording`; None with one rank.
        folder: of the run, on the rank that writes it. The other ranks write beside it.
        step: finished steps.
        warns: whether this rank logs warnings.
    """

    def __init__(
        self,
        items: Sequence[MetricSpec],
        info: TrainingInfo,
        predictions: Predictions,
        reducer: Reducer | None,
        *,
        folder: str | None,
        step: int,
        warns: bool,
    ) -> None:
        examples, bad_batches = _first(items, ExamplesMetric), _first(items, BadBatchesMetric)
        self._predictions, self._warns = predictions, warns
        self._log: ExampleLog | None = None
        self._files: BatchFiles | None = None
        self._rows: Rows | None = None  # of the micro-batch in progress
        self._late_rows, self._keeps_texts, self._has_checked_ids = LateRows(), False, False
        self._told = 0  # bad steps
        self._expects_inputs = False  # whether a pass told the rows of the micro-batch in progress
        self._example_texts = self._texts_of(info, examples.texts if examples is not None else 0)
        self._group_by = None if examples is None else examples.group_by
        folder = _shared(folder, reducer)
        place: dict[str, Any] = {"ranks": 1 if reducer is None else reducer.size, "step": step}
        rank = 0 if reducer is None else reducer.rank
        if folder is None or is_remote(folder):
            folder = None
            if warns:
                logger.warning("rows are not recorded: the run's folder is not local; pass a local log_dir")
        if folder is not None and examples is not None:
            limit = int(examples.limit_mib * 2**20)
            self._log = ExampleLog(folder, rank, limit=limit, texts=self._example_texts, **place)
        self.examples: Examples | None = None
        """Collects the rows, where a metric reads them."""
        if examples is not None:
            sink = None if self._log is None else self._log.record
            self.examples = Examples(sink, predictions, group_by=self._group_by, warns=warns)
        self.keeper: BatchKeeper | None = None
        """Keeps the last batches, where a metric reads them."""
        if folder is not None and bad_batches is not None:
            texts = self._texts_of(info, bad_batches.texts)
            self._keeps_texts = texts is not None
            self._files = BatchFiles(folder, rank, limit=bad_batches.keep, texts=texts, warns=warns, **place)
            if info.foreign_losses and warns:
                logger.warning("bad_batches does not judge losses: %s", info.foreign_losses)
            self.keeper = BatchKeeper(self._files.keep, bad_batches.spike, judges_losses=not info.foreign_losses)

    def _texts_of(self, info: TrainingInfo, longest: int) -> RowTexts | None:
        if not longest:
            return None
        problem = "no tokenizer is known; in a loop pass tokenizer=..."
        if callable(getattr(info.tokenizer, "decode", None)):
            try:
                return RowTexts(info.tokenizer, longest)
            except Exception as error:
                problem = f"the tokenizer cannot be copied: {reason(error)}"
        if self._warns:
            logger.warning("texts of rows are left out: %s", problem)
        return None

    @property
    def bad_steps(self) -> int | None:
        """The number of bad steps so far; None if nobody looks for them."""
        if self._files is None:
            return None
        self._told = self._files.found
        return self._told

    def new_bad_steps(self, *, is_shared: bool) -> int | None:
        """The number of bad steps, if it has changed since `bad_steps` was read, or another rank's may have."""
        if self._files is None or not self._files.found or (not is_shared and self._files.found == self._told):
            return None
        return self._files.found

    def expect(self, batch: Any, labels: Any, size: int | None) -> None:
        """Keeps the rows of the micro-batch that begins, for its first pass with logits."""
        if self._warns and not self._has_checked_ids and size is not None:
            self._has_checked_ids = True
            if (name := unread_ids(batch, size)) is not None:
                logger.warning(
                    "ids of rows are not read: the column %s must hold whole numbers or texts, one for each row", name
                )
        if self.keeper is not None:
            self._add_rows(self.keeper, batch, labels, size)
            self._expects_inputs = False
        if self.examples is not None:
            self._rows = None
            with_tokens = self._example_texts is not None
            self._rows = rows_in(batch, labels, size, group_by=self._group_by, with_tokens=with_tokens)

    def _add_rows(self, keeper: BatchKeeper, batch: Any, labels: Any, size: int | None) -> None:
        take = partial(self._late_rows.take, with_tokens=self._keeps_texts, now=keeper.rows)
        keeper.add_rows(take(batch, labels, size))

    def add_outputs(self, step: int, outputs: Any, labels: Any) -> None:
        """Adds the outputs of a pass, and the labels of its rows."""
        results = None
        if self.examples is not None:
            results = self.examples.add(step, outputs, labels, self._rows)
        if logits_in(outputs) is not None:
            self._rows = None
        if self.keeper is not None:
            results = classified(self._predictions, outputs, labels) if results is None else results
            if results is not None:
                self.keeper.add_results(results)

    def add_pass(self, outputs: Any) -> None:
        """Adds a pass of the micro-batch in progress, which is judged if the training ends in it."""
        if self.keeper is not None:
            self.keeper.add_pass(loss_in(outputs), logits_in(outputs))

    def expect_inputs(self, batch: Any, labels: Any, size: int | None, *, is_pass: bool) -> None:
        """Keeps a batch, or the inputs of a pass, unless `expect` tells more about the micro-batch."""
        if self.keeper is not None and (self._expects_inputs or not is_pass or self.keeper.rows is None):
            self._add_rows(self.keeper, batch, labels, size)
            self._expects_inputs = is_pass

    def interrupt(self, error: BaseException | None) -> None:
        """Judges the micro-batch in which the training has ended; see `BatchKeeper.interrupt`."""
        if self.keeper is not None:
            self.keeper.interrupt(error, partial(classified, self._predictions))

    def close(self) -> None:
        """Writes what is left, and ends the threads."""
        if self.examples is not None:
            self.examples.flush()
        if self.keeper is not None:
            self.keeper.close()
        for each in (self._log, self._files):
            if each is not None:
                each.close(_CLOSE_SECONDS)


def _first(items: Sequence[MetricSpec], kind: type[M]) -> M | None:
    return next((item.metric for item in items if isinstance(item.metric, kind)), None)


def _shared(folder: str | None, reducer: Reducer | None) -> str | None:
    """The folder of rank 0."""
    if reducer is None:
        return folder
    return next(iter(reducer.union(() if folder is None else (folder,))), None)
