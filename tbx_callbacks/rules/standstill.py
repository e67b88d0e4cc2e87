"""Layers whose weights do not move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import LAYER_GRAD_NORMS, LORA, UPDATE_RATIOS, WEIGHT_NORMS, Need
from tbx_callbacks.rules.series_stats import depth, outermost
from tbx_callbacks.runs.series import Run, Series

_FREEZE = "Howard and Ruder 2018, ULMFiT, section 3.3 (which layers to freeze, and when), arXiv:1801.06146"


@dataclass(frozen=True)
class ZeroGradient(Rule):
    """A layer takes part in training, but its gradient is exactly zero."""

    id: ClassVar[str] = "zero_gradient"
    needs: ClassVar[tuple[Need, ...]] = (LAYER_GRAD_NORMS,)
    source: ClassVar[str] = (
        "PyTorch, autograd mechanics (what cuts the graph): docs.pytorch.org/docs/stable/notes/autograd.html"
    )

    min_points: int = 5
    share: float = 0.95  # of the points

    def __call__(self, run: Run) -> Iterator[Finding]:
        norms = outermost(LAYER_GRAD_NORMS.all(run))
        zero = [
            name
            for name, series in norms.items()
            if len(series) >= self.min_points and (series.values == 0).mean() >= self.share and "lora_" not in name
        ]
        if zero:
            yield Finding(
                id=self.id,
                severity="error" if len(zero) == len(norms) else "warning",
                tags=tuple(f"{tags.GRAD_NORM}/{name}" for name in zero),
                steps=(int(norms[zero[0]].steps[0]),),
                numbers={"layers": len(zero), "of": len(norms)},
                means=f"The gradient of {_listed(zero)} is zero: trainable, but nothing flows back to it.",
                advice="Look for a detach(), an argmax, a ReLU or a mask that is dead, or an output that the loss does"
                " not use.",
                source=self.source,
            )


@dataclass(frozen=True)
class AllFrozen(Rule):
    """No weight moves at all."""

    id: ClassVar[str] = "all_frozen"
    needs: ClassVar[tuple[Need, ...]] = (WEIGHT_NORMS,)
    source: ClassVar[str] = _FREEZE

    min_points: int = 5

    def __call__(self, run: Run) -> Iterator[Finding]:
        still, moving = still_and_moving(run, self.min_points)
        if still and not moving:
            yield Finding(
                id=self.id,
                severity="error",
                tags=tuple(f"{tags.WEIGHT_NORM}/{name}" for name in still),
                steps=(_first_step(run),),
                numbers={"layers": len(still)},
                means="No weight has changed since the first point: nothing is trained.",
                advice="Check the learning rate, requires_grad, and that the optimizer was made from this model's"
                " parameters.",
                source=self.source,
            )


@dataclass(frozen=True)
class HeadOnly(Rule):
    """Every numbered layer stands still; only what comes after them is trained."""

    id: ClassVar[str] = "head_only"
    needs: ClassVar[tuple[Need, ...]] = (WEIGHT_NORMS,)
    source: ClassVar[str] = "Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features, arXiv:2202.10054"
    only_notes: ClassVar[bool] = True

    min_points: int = 5

    def __call__(self, run: Run) -> Iterator[Finding]:
        still, moving = still_and_moving(run, self.min_points)
        body = [name for name in (*still, *moving) if depth(name)]
        if body and moving and not any(depth(name) for name in moving):
            yield Finding(
                id=self.id,
                severity="note",
                tags=tuple(f"{tags.WEIGHT_NORM}/{name}" for name in still),
                steps=(_first_step(run),),
                numbers={"still": len(still), "moving": len(moving)},
                means=f"Only {_listed(moving)} is trained, all {len(body)} layers stand still: a linear probe.",
                advice="If that is not meant, set requires_grad of the layers and give their parameters to the"
                " optimizer.",
                source=self.source,
            )


@dataclass(frozen=True)
class FrozenLayers(Rule):
    """Some layers stand still while others learn.

    A note where they are the first ones from the bottom, as people freeze them on purpose; else a warning.
    """

    id: ClassVar[str] = "frozen_layers"
    needs: ClassVar[tuple[Need, ...]] = (WEIGHT_NORMS,)
    source: ClassVar[str] = _FREEZE

    min_points: int = 5

    def __call__(self, run: Run) -> Iterator[Finding]:
        still, moving = still_and_moving(run, self.min_points)
        if not still or not any(depth(name) for name in moving) or LORA.all(run):
            return
        numbers = sorted(place[1] for name in still if (place := depth(name)))
        lowest_moving = min(place[1] for name in moving if (place := depth(name)))
        others = [name for name in still if not depth(name) and "embed" not in name.lower()]
        on_purpose = not others and all(number < lowest_moving for number in numbers)
        yield Finding(
            id=self.id,
            severity="note" if on_purpose else "warning",
            tags=tuple(f"{tags.WEIGHT_NORM}/{name}" for name in still),
            steps=(_first_step(run),),
            numbers={"still": len(still), "moving": len(moving)},
            means=f"Not moved since the first point: {_listed(still)}; {len(moving)} other layers learn.",
            advice="If that is not meant, look at requires_grad and at the optimizer's parameter groups.",
            source=self.source,
        )


def still_and_moving(run: Run, min_points: int) -> tuple[list[str], list[str]]:
    """Layers whose weights' norm is the same at every point, or whose update ratio is zero; and the others."""
    ratios = outermost(UPDATE_RATIOS.all(run))
    still: list[str] = []
    moving: list[str] = []
    for name, norms in outermost(WEIGHT_NORMS.all(run)).items():
        if len(norms) < min_points or not norms.values.any():
            continue
        stands = _constant(norms) and not (name in ratios and ratios[name].values.any())
        (still if stands else moving).append(name)
    return still, moving


def _constant(series: Series) -> bool:
    return bool((series.values == series.values[0]).all())


def _first_step(run: Run) -> int:
    return min(int(series.steps[0]) for series in WEIGHT_NORMS.all(run).values())


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
