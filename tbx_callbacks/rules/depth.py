"""Gradients that fade or grow on their way down through the layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import LAYER_GRAD_NORMS, Need
from tbx_callbacks.rules.series_stats import median, outermost, stack
from tbx_callbacks.runs.series import Run

_SOURCE = "Pascanu, Mikolov and Bengio 2013, Difficulty of Training Recurrent Networks, arXiv:1211.5063"


@dataclass(frozen=True)
class VanishingGradients(Rule):
    """The first layers' gradients are much smaller than the last layers'."""

    id: ClassVar[str] = "vanishing_gradients"
    needs: ClassVar[tuple[Need, ...]] = (LAYER_GRAD_NORMS,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 10
    ratio: float = 1e-3  # first layer's norm to the last one's; the healthy planted runs have 0.17 to 0.93

    def __call__(self, run: Run) -> Iterator[Finding]:
        norms = _medians(run, self.min_points)
        if len(norms) < 2:
            return
        (bottom, low), (top, high) = _ends(norms)
        if low >= self.ratio * high:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(f"{tags.GRAD_NORM}/{bottom}", f"{tags.GRAD_NORM}/{top}"),
            steps=(_first_step(run),),
            numbers={bottom: low, top: high, "ratio": low / high},
            means=f"Gradients vanish: their norm falls from {high:.2g} in {top} to {low:.2g} in {bottom}, so that the"
            " first"
            " layers hardly learn.",
            advice="Look for what saturates in between (a too high learning rate, a missing residual or LayerNorm, a"
            " wrong"
            " initialisation).",
            source=self.source,
        )


@dataclass(frozen=True)
class ExplodingGradients(Rule):
    """The first layers' gradients are much larger than the last layers'."""

    id: ClassVar[str] = "exploding_gradients"
    needs: ClassVar[tuple[Need, ...]] = (LAYER_GRAD_NORMS,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 10
    ratio: float = 1e2  # first layer's norm to the last one's

    def __call__(self, run: Run) -> Iterator[Finding]:
        norms = _medians(run, self.min_points)
        if len(norms) < 2:
            return
        (bottom, low), (top, high) = _ends(norms)
        if low <= self.ratio * high:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(f"{tags.GRAD_NORM}/{bottom}", f"{tags.GRAD_NORM}/{top}"),
            steps=(_first_step(run),),
            numbers={bottom: low, top: high, "ratio": low / high},
            means=f"Gradients explode: their norm grows from {high:.2g} in {top} to {low:.2g} in {bottom}.",
            advice="Clip gradients by norm, lower the learning rate, warm up; look at the initialisation and at"
            " LayerNorms.",
            source=self.source,
        )


def _medians(run: Run, min_points: int) -> dict[str, float]:
    """Layer -> median norm, for layers that have a gradient."""
    layers = stack(outermost(LAYER_GRAD_NORMS.all(run)))
    medians = {name: median(norms[np.isfinite(norms)]) for name, norms in layers.items() if len(norms) >= min_points}
    return {name: norm for name, norm in medians.items() if norm > 0}


def _ends(norms: dict[str, float]) -> tuple[tuple[str, float], tuple[str, float]]:
    names = list(norms)
    return (names[0], norms[names[0]]), (names[-1], norms[names[-1]])


def _first_step(run: Run) -> int:
    return min(int(series.steps[0]) for series in LAYER_GRAD_NORMS.all(run).values())
