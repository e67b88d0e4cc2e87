"""Writes the scalars of a run against samples, tokens or epochs, in a folder below the run's."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.runs.folders import by_axis
from tbx_callbacks.tags import AXIS, AXIS_STEP, TRAIN_EPOCH
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

logger = logging.getLogger(__name__)

EPOCH = 1000
"""Axis positions per epoch; TensorBoard's steps are integers."""


class AxisWriter(TensorBoardWriter):
    """Writes scalars at the positions of their steps along an axis, in `by_samples`, `by_tokens` or `by_epochs`.

    The position of a step is the number of samples (tokens, thousandths of an epoch) up to it. Positions of steps
    without a count, such as some evaluations, are extrapolated from the last two counts. Positions never decrease.

    Args:
        run_dir: folder of the run.
        axis: `samples`, `tokens` or `epochs`.
        **options: see `TensorBoardWriter`.
    """

    def __init__(self, run_dir: str, axis: str, **options: Any) -> None:
        super().__init__(by_axis(run_dir, axis), **options)
        self._axis, self._source = axis, TRAIN_EPOCH if axis == "epochs" else f"{AXIS}{axis}"
        self._known: list[tuple[int, float]] = [(0, 0.0)]  # steps with their positions; empty if there is no start
        self._written, self._has_unwritten = -1, False

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes the scalars of a step; `axis:samples` and `axis:tokens` are the counts since the point before it."""
        count = values.get(self._source)
        if isinstance(count, float) and self._axis == "epochs":
            self._set_position(step, count * EPOCH)
        elif isinstance(count, float) and self._known:
            self._set_position(step, self._known[-1][1] + count)
        scalars = {tag: value for tag, value in values.items() if isinstance(value, float) and not tag.startswith(AXIS)}
        position = self._position(step)
        if scalars and position is not None:
            self._written = max(self._written, position)  # a count may be below an earlier estimate
            super().write(self._written, {AXIS_STEP: float(step), **scalars})
        self._has_unwritten |= position is None

    def purge(self, step: int) -> None:
        """Goes back to the position of the last step that is not trained again; the axis's files have that position."""
        self._known, self._written = self._read(step - 1) if step > 1 else [(0, 0.0)], -1
        if (position := self._position(step - 1)) is not None:
            self._set_position(step - 1, position)
            self._written = position
            super().purge(position + 1)

    def close(self) -> None:
        """Closes the event file; warns if no position was ever known."""
        super().close()
        if self._has_unwritten and len(self._known) == 1:
            source = "the trainer's epoch" if self._axis == "epochs" else f"the {self._axis} of each batch"
            logger.warning("axis %s is not written: it needs %s, which the run did not provide", self._axis, source)
        self._has_unwritten = False

    def _set_position(self, step: int, position: float) -> None:
        self._known = [*[known for known in self._known if known[0] < step][-1:], (step, position)]

    def _position(self, step: int) -> int | None:
        """The position of a step on the line through the nearest known ones."""
        index = min(bisect_left(self._known, (step,)), len(self._known) - 1)
        if index >= 0 and self._known[index][0] == step:
            return round(self._known[index][1])
        if index < 1:
            return None
        (first, start), (last, end) = self._known[index - 1 : index + 1]
        return round(end + (end - start) / (last - first) * (step - last))

    def _read(self, step: int) -> list[tuple[int, float]]:
        from tbx_callbacks.runs.reader import UnreadableError, read_run  # needs TensorBoard

        self.flush()
        try:
            written = read_run(self.folder).scalars[AXIS_STEP]
        except (UnreadableError, KeyError, ImportError) as error:
            logger.warning(
                "axis %s is not written: its position at step %d cannot be restored: %s", self._axis, step, error
            )
            return []
        return sorted({0: 0.0, **dict(zip(written.values.tolist(), written.steps.tolist(), strict=True))}.items())
