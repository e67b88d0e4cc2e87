"""Defines the rules that find updates that are too large or too small for the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks._text import count
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import UPDATE_RATIOS, Need
from tbx_callbacks.rules.series_stats import depth, finite, median, outermost
from tbx_callbacks.rules.training_loss import has_learned
from tbx_callbacks.runs.series import Run

_SOURCE = "Stanford CS231n notes, ratio of weights and updates (about 1e-3): cs231n.github.io/neural-networks-3/#ratio"


@dataclass(frozen=True)
class UpdateTooLarge(Rule):
    """Steps change a layer by a large share of its weight norm, and the loss falls little."""

    id: ClassVar[str] = "update_too_large"
    code: ClassVar[str] = "TBX-UPD-004"
    needs: ClassVar[tuple[Need, ...]] = (UPDATE_RATIOS,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 10  # the first steps from random weights are large, until the loss has fallen
    ratio: float = 0.1  # 100 times the rule of thumb; healthy test runs from random weights reach 0.07 in the warm-up
    learned: float = 0.5  # a loss that fell by this share of its initial value bears larger updates
    always: float = 0.3  # updates above this are reported even then

    def __call__(self, run: Run) -> Iterator[Finding]:
        limit = self.always if has_learned(run, self.learned) else self.ratio
        large = {name: top for name, top in _large_ratios(run, self.min_points) if top > limit}
        if large:
            worst = max(large, key=lambda name: large[name])
            yield Finding(
                id=self.id,
                severity="warning",
                tags=tuple(f"{tags.UPDATE_RATIO}/{name}" for name in large),
                steps=(_first_step(run),),
                numbers=large,
                means=f"Steps change {worst} by {large[worst]:.1%} of its weight norm, and"
                f" {count(len(large), 'layer')} in total by over {limit:.0%}. Such steps overwrite what these layers"
                " have learned, pretrained knowledge included.",
                advice="Divide the learning rate by 10. About 0.1 % per step is usual. If only the first steps are that"
                " large, warm up longer.",
                source=self.source,
            )


@dataclass(frozen=True)
class UpdateTooSmall(Rule):
    """A step hardly changes a layer."""

    id: ClassVar[str] = "update_too_small"
    code: ClassVar[str] = "TBX-UPD-005"
    needs: ClassVar[tuple[Need, ...]] = (UPDATE_RATIOS,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 5
    ratio: float = 1e-6  # a thousandth of the rule of thumb; float32 weights cannot represent changes of 1e-7

    def __call__(self, run: Run) -> Iterator[Finding]:
        small = {name: top for name, top in _large_ratios(run, self.min_points) if 0 < top < self.ratio}
        if small:
            least = min(small, key=lambda name: small[name])
            yield Finding(
                id=self.id,
                severity="warning",
                tags=tuple(f"{tags.UPDATE_RATIO}/{name}" for name in small),
                steps=(_first_step(run),),
                numbers=small,
                means=f"Steps change {least} by at most {small[least]:.1g} of its weight norm. It does not learn:"
                " weights in float32 cannot even hold changes below 1e-7 of their size.",
                advice="Raise the learning rate of this parameter group 10 times. If its gradient is tiny, find out"
                " why first.",
                source=self.source,
            )


def _large_ratios(run: Run, min_points: int) -> list[tuple[str, float]]:
    """Returns the median of the largest tenth of the ratios by layer, which shows the steps at high learning rates.

    Covers only numbered layers if there are any, because a newly initialised head may change quickly.
    """
    layers = outermost(UPDATE_RATIOS.all(run))
    numbered = {name: series for name, series in layers.items() if depth(name)}
    tops = []
    for name, series in (numbered or layers).items():
        values = np.sort(finite(series).values)
        if len(values) >= min_points:
            tops.append((name, median(values[-max(3, len(values) // 10) :])))
    return tops


def _first_step(run: Run) -> int:
    return min(int(series.steps[0]) for series in UPDATE_RATIOS.all(run).values())
