"""Defines the rule that names the layers that moved farthest from the start of the training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import DRIFTS, Need
from tbx_callbacks.rules.series_stats import finite, median, outermost
from tbx_callbacks.runs.series import Run

_MAX_SHOWN = 3


@dataclass(frozen=True)
class UnevenDrift(Rule):
    """Some layers moved much farther from their initial weights than the median layer; names them."""

    id: ClassVar[str] = "uneven_drift"
    code: ClassVar[str] = "TBX-UPD-007"
    needs: ClassVar[tuple[Need, ...]] = (DRIFTS,)
    source: ClassVar[str] = "Howard and Ruder 2018, ULMFiT, section 3.2 (discriminative fine-tuning), arXiv:1801.06146"

    min_points: int = 3
    factor: float = 3.0  # times the median layer's drift
    layers: int = 3  # with fewer, a median means nothing

    def __call__(self, run: Run) -> Iterator[Finding]:
        last: dict[str, float] = {}
        steps: list[int] = []
        for name, full_series in outermost(DRIFTS.all(run)).items():
            series = finite(full_series)
            if len(series) >= self.min_points:
                last[name] = float(series.values[-1])
                steps.append(int(series.steps[-1]))
        if len(last) < self.layers:
            return
        usual = median(np.array([*last.values()]))
        far = sorted((name for name in last if last[name] > self.factor * usual), key=lambda name: -last[name])
        if not far:
            return
        tag = f"{tags.DRIFT}/{far[0]}"
        shown = ", ".join(f"{name} by {last[name]:.2%}{_moved(run, name)}" for name in far[:_MAX_SHOWN])
        more = f" and {len(far) - _MAX_SHOWN} more" if len(far) > _MAX_SHOWN else ""
        yield Finding(
            id=self.id,
            severity="note",
            tags=tuple(f"{tags.DRIFT}/{name}" for name in far),
            steps=(max(steps),),
            numbers={tag: last[far[0]], "median": usual},
            means=(
                f"These layers moved most since the start, relative to their initial norm: {shown}{more}."
                f" The median layer moved by {usual:.2%}."
            ),
            advice="Lower the learning rate of these layers. New layers, such as a head, may move that far.",
            source=self.source,
        )


def _moved(run: Run, name: str) -> str:
    """The share of the layer's elements that moved, for the text."""
    series, at = run.scalars.get(f"{tags.MOVED_SHARE}/{name}"), finite(run.scalars[f"{tags.DRIFT}/{name}"]).steps[-1]
    shares = [] if series is None else series.values[series.steps == at].tolist()
    return f" ({shares[-1]:.0%} of the elements)" if shares else ""
