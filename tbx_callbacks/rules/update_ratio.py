"""Steps that are too large or too small for the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import UPDATE_RATIOS, Need
from tbx_callbacks.rules.series_stats import depth, finite, median, outermost
from tbx_callbacks.runs.series import Run

_SOURCE = "Stanford CS231n notes, ratio of weights and updates (about 1e-3): cs231n.github.io/neural-networks-3/#ratio"


@dataclass(frozen=True)
class UpdateTooLarge(Rule):
    """A step changes a layer by a large share of its weights' norm."""

    id: ClassVar[str] = "update_too_large"
    needs: ClassVar[tuple[Need, ...]] = (UPDATE_RATIOS,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 5
    ratio: float = 0.05  # 50 times the rule of thumb; the healthy planted runs, from random weights, reach 0.02

    def __call__(self, run: Run) -> Iterator[Finding]:
        large = {name: top for name, top in _by_layer(run, self.min_points) if top > self.ratio}
        if large:
            worst = max(large, key=lambda name: large[name])
            yield Finding(
                id=self.id,
                severity="warning",
                tags=tuple(f"{tags.UPDATE_RATIO}/{name}" for name in large),
                steps=(_first_step(run),),
                numbers=large,
                means=f"Steps change {worst} by {large[worst]:.1%} of its weights' norm, and {len(large)} layers in all"
                f" by over {self.ratio:.0%}: too much to keep what the model knows.",
                advice="Lower the learning rate, or warm up longer; about 0.1 % a step is usual.",
                source=self.source,
            )


@dataclass(frozen=True)
class UpdateTooSmall(Rule):
    """Steps hardly change a layer."""

    id: ClassVar[str] = "update_too_small"
    needs: ClassVar[tuple[Need, ...]] = (UPDATE_RATIOS,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 5
    ratio: float = 1e-6  # a thousandth of the rule of thumb; float32 weights no longer see 1e-7

    def __call__(self, run: Run) -> Iterator[Finding]:
        small = {name: top for name, top in _by_layer(run, self.min_points) if 0 < top < self.ratio}
        if small:
            least = min(small, key=lambda name: small[name])
            yield Finding(
                id=self.id,
                severity="warning",
                tags=tuple(f"{tags.UPDATE_RATIO}/{name}" for name in small),
                steps=(_first_step(run),),
                numbers=small,
                means=f"Steps change {least} by {small[least]:.1g} of its weights' norm at most: it does not learn.",
                advice="Raise the learning rate of this group, or look why its gradient is so small.",
                source=self.source,
            )


def _by_layer(run: Run, min_points: int) -> list[tuple[str, float]]:
    """The median of the largest quarter of the ratios, by layer: what the steps do while the rate is high.

    Of numbered layers where there are any: a head that starts from nothing may move fast.
    """
    layers = outermost(UPDATE_RATIOS.all(run))
    numbered = {name: series for name, series in layers.items() if depth(name)}
    tops = []
    for name, series in (numbered or layers).items():
        values = np.sort(finite(series).values)
        if len(values) >= min_points:
            tops.append((name, median(values[-max(3, len(values) // 4) :])))
    return tops


def _first_step(run: Run) -> int:
    return min(int(series.steps[0]) for series in UPDATE_RATIOS.all(run).values())
