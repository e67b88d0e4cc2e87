"""Defines the rule that finds training that waits for data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import INPUT_SHARE, Need
from tbx_callbacks.rules.series_stats import finite, median
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class InputBound(Rule):
    """The training spends a large share of its time waiting for the next batch."""

    id: ClassVar[str] = "input_bound"
    code: ClassVar[str] = "TBX-DATA-001"
    needs: ClassVar[tuple[Need, ...]] = (INPUT_SHARE,)
    source: ClassVar[str] = (
        "PyTorch, performance tuning guide: docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html"
    )

    min_points: int = 5
    share: float = 0.3  # of the time; median without the first point, because dataloader workers start there

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = INPUT_SHARE.first(run)
        if entry is None or len(series := finite(entry[1])) < self.min_points:
            return
        share = median(series.values[1:])
        if share < self.share:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(entry[0],),
            steps=(int(series.steps[0]), int(series.steps[-1])),
            numbers={"share": share},
            means=f"The training waits for data {share:.0%} of the time. The device may be idle meanwhile.",
            advice="Use more dataloader workers (dataloader_num_workers). If all CPU cores are busy already, preprocess"
            " the data before the training. Pinned memory helps too.",
            source=self.source,
        )
