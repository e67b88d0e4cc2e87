"""Defines the rules that find gradients that vanish or explode on their way back through the layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import LAYER_GRAD_NORMS, Need
from tbx_callbacks.rules.series_stats import median, outermost, stack
from tbx_callbacks.runs.series import Run

_SOURCE = "Pascanu, Mikolov and Bengio 2013, Difficulty of Training Recurrent Networks, arXiv:1211.5063"


@dataclass(frozen=True)
class VanishingGradients(Rule):
    """Gradients of the first layers are much smaller than those of the last layers."""

    id: ClassVar[str] = "vanishing_gradients"
    code: ClassVar[str] = "TBX-GRAD-001"
    needs: ClassVar[tuple[Need, ...]] = (LAYER_GRAD_NORMS,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 10
    ratio: float = 1e-3  # norm of the first layer over that of the last; healthy test runs have 0.17 to 0.93

    def __call__(self, run: Run) -> Iterator[Finding]:
        norms = _medians(run, self.min_points)
        if len(norms) < 2:
            return
        (bottom, low), (top, high) = _first_and_last(norms)
        if low >= self.ratio * high:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(f"{tags.GRAD_NORM}/{bottom}", f"{tags.GRAD_NORM}/{top}"),
            steps=(_first_step(run),),
            numbers={bottom: low, top: high, "ratio": low / high},
            means=f"Gradients vanish: their norm falls from {high:.2g} in {top} to {low:.2g} in {bottom}."
            " The first layers hardly learn, unless the optimizer divides by the size of the gradient.",
            advice="Look for saturated activations between these layers. Other causes are a learning rate that is too"
            " high, a wrong initialisation, and a missing residual connection or LayerNorm.",
            source=self.source,
        )


@dataclass(frozen=True)
class ExplodingGradients(Rule):
    """Gradients of the first layers are much larger than those of the last layers."""

    id: ClassVar[str] = "exploding_gradients"
    code: ClassVar[str] = "TBX-GRAD-002"
    needs: ClassVar[tuple[Need, ...]] = (LAYER_GRAD_NORMS,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 10
    ratio: float = 1e2  # norm of the first layer over that of the last

    def __call__(self, run: Run) -> Iterator[Finding]:
        norms = _medians(run, self.min_points)
        if len(norms) < 2:
            return
        (bottom, low), (top, high) = _first_and_last(norms)
        if low <= self.ratio * high:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(f"{tags.GRAD_NORM}/{bottom}", f"{tags.GRAD_NORM}/{top}"),
            steps=(_first_step(run),),
            numbers={bottom: low, top: high, "ratio": low / high},
            means=f"Gradients explode: their norm grows from {high:.2g} in {top} to {low:.2g} in {bottom}."
            f" Steps of the first layers are {low / high:.2g} times those of the last ones, unless the optimizer"
            " divides by the size of the gradient.",
            advice="Check the initialisation of these layers. Then check the LayerNorms between them, and clip"
            " gradients by norm or warm up.",
            source=self.source,
        )


def _medians(run: Run, min_points: int) -> dict[str, float]:
    """Returns layer -> median norm, for layers that have a gradient."""
    layers = stack(outermost(LAYER_GRAD_NORMS.all(run)))
    medians = {name: median(norms[np.isfinite(norms)]) for name, norms in layers.items() if len(norms) >= min_points}
    return {name: norm for name, norm in medians.items() if norm > 0}


def _first_and_last(norms: dict[str, float]) -> tuple[tuple[str, float], tuple[str, float]]:
    names = list(norms)
    return (names[0], norms[names[0]]), (names[-1], norms[names[-1]])


def _first_step(run: Run) -> int:
    return min(int(series.steps[0]) for series in LAYER_GRAD_NORMS.all(run).values())
