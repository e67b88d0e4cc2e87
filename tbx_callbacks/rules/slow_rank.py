"""Defines the rule that finds a rank that is always the slowest one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import SLOWEST_LEAD, SLOWEST_RANK, Need
from tbx_callbacks.rules.series_stats import finite, median
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class SlowRank(Rule):
    """The same rank is the slowest one for many steps, so that the others wait for it."""

    id: ClassVar[str] = "slow_rank"
    code: ClassVar[str] = "TBX-DIST-002"
    needs: ClassVar[tuple[Need, ...]] = (SLOWEST_RANK, SLOWEST_LEAD)
    source: ClassVar[str] = "Jiang et al. 2024, MegaScale, section 5.1, stragglers: arxiv.org/abs/2402.15627"

    steps: int = 50
    min_points: int = 3
    share: float = 0.05  # of the step, by which the rank is behind the mean of all ranks; median of its points
    large_share: float = 0.2  # a warning from here on

    def __call__(self, run: Run) -> Iterator[Finding]:
        found, leads = SLOWEST_RANK.first(run), SLOWEST_LEAD.first(run)
        if found is None or leads is None:
            return
        tag, ranks = found[0], finite(found[1])
        lead_by_step = dict(zip(leads[1].steps.tolist(), leads[1].values.tolist(), strict=True))
        starts = [0, *(np.flatnonzero(np.diff(ranks.values)) + 1).tolist(), len(ranks)]
        for start, stop in zip(starts[-2::-1], starts[:0:-1], strict=True):  # the last stretch is the one to know
            steps = ranks.steps[start:stop].tolist()
            if len(steps) < self.min_points or steps[-1] - steps[0] < self.steps:
                continue
            share = median(np.array([lead_by_step.get(step, 0.0) for step in steps]))
            if not share >= self.share:
                continue
            rank = int(ranks.values[start])
            yield Finding(
                id=self.id,
                severity="warning" if share >= self.large_share else "note",
                tags=(tag, leads[0]),
                steps=(int(steps[0]), int(steps[-1])),
                numbers={"rank": rank, "share": share},
                means=f"Rank {rank} was the slowest rank for {steps[-1] - steps[0]:,} steps: its data, forward pass and"
                f" callbacks took longer than the mean of all ranks by {share:.0%} of a step. The others wait for it.",
                advice="Compare this rank's machine with the others: its disk, its CPU cores, other processes. Longer"
                " texts on one rank look the same: shuffle the data, or group batches by length.",
                source=self.source,
            )
            return
