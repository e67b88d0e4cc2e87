"""Tracks the best value so far of each evaluation metric."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tbx_callbacks._stats.types import Number
from tbx_callbacks.tags import EVALUATION, larger_is_better


class BestValues:
    """The best value by tag: the smallest for losses and errors, the largest for everything else.

    Args:
        larger: by tag, whether larger is better, for the metrics where the trainer specifies it.
    """

    def __init__(self, larger: Mapping[str, bool]) -> None:
        self._larger = larger
        self.values: dict[str, float] = {}

    def update(self, logs: Mapping[str, Number | str]) -> None:
        """Updates the best values with the evaluation metrics (`eval/...`, `val_...`) in the trainer's logs."""
        for tag, value in logs.items():
            if not tag.startswith(EVALUATION) or not isinstance(value, (int, float)) or math.isnan(value):
                continue
            best = self.values.get(tag)
            if best is None or (value > best if self._larger_is_better(tag) else value < best):
                self.values[tag] = value

    def _larger_is_better(self, tag: str) -> bool:
        return self._larger.get(tag, larger_is_better(tag))
