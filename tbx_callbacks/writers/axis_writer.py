"""Writes a run, and its scalars against further axes in folders below the run's."""

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
"""Axis positions per epoch; TensorBoard's steps are integers."""
_STEP, _EPOCH = tags.AXIS_STEP, tags.TRAIN_EPOCH


class AxesWriter(TensorBoardWriter):
    """Writes a run, and its scalars again for each further axis.

    On a further axis, the position of a point is the number of samples (tokens, thousandths of an epoch) at its step.
    Points at steps without a count, such as some evaluations, are extrapolated from the last two counts.

    Args:
        log_dir: folder of the run; the other axes are in `by_samples`, `by_tokens` and `by_epochs` below it.
        axes: names of the further axes.
        **options: see `TensorBoardWriter`.
    """

    def __init__(self, log_dir: str | os.PathLike[str], axes: Sequence[str], **options: Any) -> None:
        super().__init__(log_dir, **options)
        self._axes = [_Axis(axis, TensorBoardWriter(by_axis(self.log_dir, axis), **options)) for axis in axes]

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        run_values = {tag: value for tag, value in values.items() if not tag.startswith(AXIS)}
        if run_values:
            super().write(step, run_values)
        scalars = {tag: value for tag, value in run_values.items() if isinstance(value, float)}
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
    """Tracks the position of steps along one axis, and writes scalars at these positions."""

    def __init__(self, name: str, writer: TensorBoardWriter) -> None:
        self.name, self.writer = name, writer
        self._last: tuple[int, float] | None = (0, 0.0)  # a step and its position; None if unknown
        self._rate: float | None = None  # positions per step
        self._written = (0, -1)
        self._unwritten = 0

    def learn(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Updates the position from the values of a step."""
        epoch, more = values.get(_EPOCH), values.get(f"{AXIS}{self.name}")
        if self.name == "epochs" and isinstance(epoch, float):
            self._reach(step, epoch * EPOCH)
        elif isinstance(more, float) and self._last is not None:
            self._reach(step, self._last[1] + more)

    def write(self, step: int, scalars: Mapping[str, FinalValue]) -> None:
        """Writes scalars at the position of their step; positions never decrease."""
        position = self._position(step)
        if position is None:
            self._unwritten += 1
        else:
            position = max(position, self._written[1])  # a count may be below an earlier estimate
            self._written = step, position
            try:
                self.writer.write(position, {_STEP: float(step), **scalars})
            except LogDirError as error:  # only this axis cannot be written
                self._last = None
                logger.warning("%s", error)

    def purge(self, step: int) -> None:
        """Goes back to the position before a step that is trained again; the files of the axis have that position."""
        self._last, self._rate, self._written = (0, 0.0), None, (0, -1)
        if step > 1:
            self.writer.flush()
            self._restore(step - 1)
        if (position := self._position(step - 1)) is not None:
            self._written = step - 1, position
            self.writer.purge(position + 1)

    def close(self) -> None:
        """Closes the files."""
        self.writer.close()
        if self._unwritten and self._rate is None and self._last is not None:
            source = "the trainer's epoch" if self.name == "epochs" else f"the {self.name} of each batch"
            logger.warning("axis %s is not written: it needs %s, which the run did not provide", self.name, source)
        self._unwritten = 0

    def _restore(self, step: int) -> None:
        from tbx_callbacks.runs.reader import UnreadableError, read_run  # needs TensorBoard

        try:
            axis_steps = read_run(self.writer.log_dir).scalars[_STEP]
        except (UnreadableError, KeyError, ImportError) as error:
            self._last = None
            logger.warning(
                "axis %s is not written: its position at step %d cannot be restored: %s", self.name, step, error
            )
            return
        steps, positions = np.array([0.0, *axis_steps.values]), np.array([0.0, *axis_steps.steps])
        last = int(np.searchsorted(steps, step).clip(1, len(steps) - 1))
        self._rate = float((positions[last] - positions[last - 1]) / max(1.0, steps[last] - steps[last - 1]))
        self._last = step, float(positions[last] + self._rate * (step - steps[last]))

    def _reach(self, step: int, position: float) -> None:
        if self._last is not None and step > self._last[0]:
            self._rate = (position - self._last[1]) / (step - self._last[0])
        self._last = step, position

    def _position(self, step: int) -> int | None:
        if self._last is None:
            return None
        known_step, position = self._last
        if step == known_step:
            return round(position)
        return None if self._rate is None else round(position + self._rate * (step - known_step))
