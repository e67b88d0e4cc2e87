"""The best value so far of each evaluation metric."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tbx_callbacks._stats.types import Number
from tbx_callbacks.tags import EVALUATION, larger_is_better


class BestValues:
    """Keeps the best value by tag: the smallest of losses and errors, the largest of the rest.

    Args:
        larger: by tag, whether larger is better, where the trainer says so.
    """

    def __init__(self, larger: Mapping[str, bool]) -> None:
        self._larger = larger
        self.values: dict[str, float] = {}

    def update(self, logs: Mapping[str, Number | str]) -> None:
        """Takes the evaluation metrics (`eval/...`, `val_...`) among the numbers that the trainer logs."""
        for tag, value in logs.items():
            if not tag.startswith(EVALUATION) or not isinstance(value, (int, float)) or math.isnan(value):
                continue
            known = self.values.get(tag)
            if known is None or (value > known if self._larger_is_better(tag) else value < known):
                self.values[tag] = value

    def _larger_is_better(self, tag: str) -> bool:
        return self._larger.get(tag, larger_is_better(tag))
