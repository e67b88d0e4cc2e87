"""Defines the rule about warm restarts of the learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import LEARNING_RATE, TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import finite, median, noise
from tbx_callbacks.rules.training_loss import training_loss
from tbx_callbacks.runs.series import Run, Series

_AROUND = 3  # points of the loss before a restart and after it


@dataclass(frozen=True)
class RestartSpike(Rule):
    """Restarts of the learning rate throw the training loss up, and half a cycle does not bring it back."""

    id: ClassVar[str] = "restart_spike"
    code: ClassVar[str] = "TBX-LR-004"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS, LEARNING_RATE)
    source: ClassVar[str] = (
        "Loshchilov and Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts, arXiv:1608.03983"
    )

    min_points: int = 20
    jump: float = 5.0  # rise of the rate from one point to the next that counts as a restart
    ratio: float = 1.5  # loss after a restart over that before it
    back: float = 1.2  # loss after half of the cycle over that before the restart

    def __call__(self, run: Run) -> Iterator[Finding]:
        rates, entry = LEARNING_RATE.first(run), training_loss(run)
        if rates is None or entry is None or len(entry[1]) < self.min_points:
            return
        restarts = self._restarts(finite(rates[1]))
        bad = [found for found in (self._judge(entry[1], *cycle) for cycle in restarts) if found is not None]
        if not bad or 2 * len(bad) <= len(restarts):
            return
        step, before, after = bad[0]
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(entry[0], rates[0]),
            steps=tuple(found[0] for found in bad),
            numbers={"before": before, "after": after, "restarts": float(len(restarts))},
            means=f"{len(bad)} of {len(restarts)} restarts of the learning rate throw the loss up, at step {step} from"
            f" {before:.3g} to {after:.3g}. Half a cycle later it is still higher: restarts destroy what was learned.",
            advice="Lower the rate to which the schedule restarts. Longer cycles, or one cycle without a restart, help"
            " too.",
            source=self.source,
        )

    def _restarts(self, rates: Series) -> list[tuple[int, int]]:
        """Returns the first step of each cycle that a restart begins, and the middle of the cycle."""
        values, steps = rates.values, rates.steps
        jumps = [
            index
            for index in range(2, len(values))
            if values[index - 1] > 0
            and values[index] >= self.jump * values[index - 1]
            and values[index - 1] < values[0]
        ]
        ends = [*(int(steps[index]) for index in jumps[1:]), int(steps[-1])] if jumps else []
        return [(int(steps[index]), (int(steps[index]) + end) // 2) for index, end in zip(jumps, ends, strict=True)]

    def _judge(self, loss: Series, start: int, middle: int) -> tuple[int, float, float] | None:
        """Returns the step of a restart that did harm, and the loss before and after it."""
        before, after = loss.values[loss.steps < start][-_AROUND:], loss.values[loss.steps >= start][:_AROUND]
        later = loss.values[loss.steps >= middle][:_AROUND]
        if min(len(before), len(after), len(later)) < _AROUND or not (before > 0).all():
            return None
        low, high = median(before), float(np.max(after))
        is_thrown = high > self.ratio * low and high - low > noise(loss.values)
        return (start, low, high) if is_thrown and median(later) > self.back * low else None
