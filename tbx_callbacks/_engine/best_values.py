"""Tracks the best value so far of each evaluation metric."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tbx_callbacks._stats.types import Number
from tbx_callbacks.tags import EVALUATION, larger_is_better


class BestValues:
    """The best value by tag, where it is known whether a larger or a smaller value is better.

    The metric set decides (its key `best`), or else the trainer, or else the words in the metric's name.

    Args:
        larger: by tag, whether larger is better, for the metrics where the trainer specifies it.
        chosen: the same by name or tag, for the metrics where the metric set specifies it.
    """

    def __init__(self, larger: Mapping[str, bool], chosen: Mapping[str, bool] | None = None) -> None:
        self._larger, self._chosen = larger, chosen or {}
        self.values: dict[str, float] = {}

    def update(self, logs: Mapping[str, Number | str]) -> None:
        """Updates the best values with the evaluation metrics (`eval/...`, `val_...`) in the trainer's logs."""
        for tag, value in logs.items():
            if not tag.startswith(EVALUATION) or not isinstance(value, (int, float)) or math.isnan(value):
                continue
            larger = self._larger_is_better(tag)
            if larger is None:
                continue
            best = self.values.get(tag)
            if best is None or (value > best if larger else value < best):
                self.values[tag] = value

    def _larger_is_better(self, tag: str) -> bool | None:
        names = [tag, *(tag.removeprefix(prefix) for prefix in EVALUATION if tag.startswith(prefix))]
        chosen = next((self._chosen[name] for name in names if name in self._chosen), None)
        return chosen if chosen is not None else self._larger.get(tag, larger_is_better(tag))
