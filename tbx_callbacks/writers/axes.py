"""The sink of a run that is written against other axes too: its scalars, in folders below its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.runs.folders import by_axis
from tbx_callbacks.tags import AXIS
from tbx_callbacks.writers.tensorboard import LogDirError, TensorBoardWriter

logger = logging.getLogger(__name__)

EPOCH = 1000
"""TensorBoard's steps are whole numbers: an epoch is a thousand of them."""
_STEP, _EPOCH = tags.AXIS_STEP, tags.TRAIN_EPOCH


class AxesWriter(TensorBoardWriter):
    """Writes a run, and its scalars once more for each further axis.

    A point of the second series is at the number of samples (tokens, thousandths of an epoch) of its step. Points at
    steps where nothing was counted, as some evaluations, go where the last two counts lead to.

    Args:
        log_dir: folder of the run; the second series are in `by_samples`, `by_tokens` and `by_epochs` below it.
        axes: their names.
        **options: see `TensorBoardWriter`.
    """

    def __init__(self, log_dir: str | os.PathLike[str], axes: Sequence[str], **options: Any) -> None:
        super().__init__(log_dir, **options)
        self._axes = [_Axis(axis, TensorBoardWriter(by_axis(self.log_dir, axis), **options)) for axis in axes]

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        kept = {tag: value for tag, value in values.items() if not tag.startswith(AXIS)}
        if kept:
            super().write(step, kept)
        scalars = {tag: value for tag, value in kept.items() if isinstance(value, float)}
        for axis in self._axes:
            axis.learn(step, values)
            if scalars:
                axis.write(step, scalars)

    def purge(self, step: int) -> None:
        super().purge(step)
        for axis in self._axes:
            axis.purge(step)

    def flush(self) -> None:
        super().flush()
        for axis in self._axes:
            axis.writer.flush()

    def close(self) -> None:
        super().close()
        for axis in self._axes:
            axis.close()


class _Axis:
    """One further axis: how far along it the steps are, and what is written there."""

    def __init__(self, name: str, writer: TensorBoardWriter) -> None:
        self.name, self.writer = name, writer
        self._last: tuple[int, float] | None = (0, 0.0)  # a step, and its place; None: not known
        self._rate: float | None = None  # places a step
        self._written = (0, -1)
        self._missed = 0

    def learn(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Takes what a batch says of its place."""
        epoch, more = values.get(_EPOCH), values.get(f"{AXIS}{self.name}")
        if self.name == "epochs" and isinstance(epoch, float):
            self._reach(step, epoch * EPOCH)
        elif isinstance(more, float) and self._last is not None:
            self._reach(step, self._last[1] + more)

    def write(self, step: int, scalars: Mapping[str, FinalValue]) -> None:
        """Writes scalars at the place of their step, which is never before that of an earlier step."""
        place = self._place(step)
        if place is None:
            self._missed += 1
        else:
            place = max(place, self._written[1])  # what was counted may fall short of an estimate before it
            self._written = step, place
            try:
                self.writer.write(place, {_STEP: float(step), **scalars})
            except LogDirError as error:  # the run itself can be written
                self._last = None
                logger.warning("%s", error)

    def purge(self, step: int) -> None:
        """Steps from this one on are trained again: goes back to the place of the step before, which its files know."""
        self._last, self._rate, self._written = (0, 0.0), None, (0, -1)
        if step > 1:
            self.writer.flush()
            self._restore(step - 1)
        if (place := self._place(step - 1)) is not None:
            self._written = step - 1, place
            self.writer.purge(place + 1)

    def close(self) -> None:
        """Closes the files."""
        self.writer.close()
        if self._missed and self._rate is None and self._last is not None:
            told = "the trainer's epoch" if self.name == "epochs" else f"the {self.name} of each batch"
            logger.warning("axis %s must be told %s, but was not: nothing is written against it", self.name, told)
        self._missed = 0

    def _restore(self, step: int) -> None:
        from tbx_callbacks.runs.reader import UnreadableError, read_run  # needs TensorBoard

        try:
            written = read_run(self.writer.log_dir).scalars[_STEP]
        except (UnreadableError, KeyError, ImportError) as error:
            self._last = None
            logger.warning(
                "the %s of the steps before %d are not known, so none are written: %s", self.name, step, error
            )
            return
        steps, places = np.array([0.0, *written.values]), np.array([0.0, *written.steps])
        last = int(np.searchsorted(steps, step).clip(1, len(steps) - 1))
        self._rate = float((places[last] - places[last - 1]) / max(1.0, steps[last] - steps[last - 1]))
        self._last = step, float(places[last] + self._rate * (step - steps[last]))

    def _reach(self, step: int, place: float) -> None:
        if self._last is not None and step > self._last[0]:
            self._rate = (place - self._last[1]) / (step - self._last[0])
        self._last = step, place

    def _place(self, step: int) -> int | None:
        if self._last is None:
            return None
        known, place = self._last
        if step == known:
            return round(place)
        return None if self._rate is None else round(place + self._rate * (step - known))
