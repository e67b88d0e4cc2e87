"""Training that waits for its data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import INPUT_SHARE, Need
from tbx_callbacks.rules.series_stats import finite, median
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class InputBound(Rule):
    """A large share of each step's time waits for the next batch."""

    id: ClassVar[str] = "input_bound"
    needs: ClassVar[tuple[Need, ...]] = (INPUT_SHARE,)
    source: ClassVar[str] = (
        "PyTorch, performance tuning guide: docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html"
    )

    min_points: int = 5
    share: float = 0.3  # of the step's time, median without the first point, which starts the workers

    def __call__(self, run: Run) -> Iterator[Finding]:
        found = INPUT_SHARE.first(run)
        if found is None or len(series := finite(found[1])) < self.min_points:
            return
        share = median(series.values[1:])
        if share < self.share:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(found[0],),
            steps=(int(series.steps[0]), int(series.steps[-1])),
            numbers={"share": share},
            means=f"{share:.0%} of the time waits for data: the device idles meanwhile.",
            advice="More dataloader workers (dataloader_num_workers), pinned memory, tokenize before training.",
            source=self.source,
        )
