"""Defines the rules that find layers that do not train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import LAYER_GRAD_NORMS, LORA, UPDATE_RATIOS, WEIGHT_NORMS, Need
from tbx_callbacks.rules.series_stats import depth, outermost
from tbx_callbacks.runs.series import Run, Series

_FREEZE = "Howard and Ruder 2018, ULMFiT, section 3.3 (which layers to freeze, and when), arXiv:1801.06146"


@dataclass(frozen=True)
class ZeroGradient(Rule):
    """The gradient of a trainable layer is exactly zero."""

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
                means=f"The gradient of {_join(zero)} is zero: trainable, but no gradient reaches it.",
                advice="Look for a detach(), an argmax, a dead ReLU or mask, or an output that the loss does not use.",
                source=self.source,
            )


@dataclass(frozen=True)
class AllFrozen(Rule):
    """No weight changes at all."""

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
                means="No weight has changed since the first point. Nothing is trained.",
                advice="Check the learning rate, requires_grad, and that the optimizer has this model's parameters.",
                source=self.source,
            )


@dataclass(frozen=True)
class HeadOnly(Rule):
    """All numbered layers are frozen; only the layers outside the stack are trained."""

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
                means=f"Only {_join(moving)} is trained; all {len(body)} layers are frozen (a linear probe).",
                advice="If this is not intended, set requires_grad of the layers"
                " and pass their parameters to the optimizer.",
                source=self.source,
            )


@dataclass(frozen=True)
class FrozenLayers(Rule):
    """Some layers do not change while others train.

    This is a note if only the lowest layers are frozen, which is common on purpose; otherwise it is a warning.
    """

    id: ClassVar[str] = "frozen_layers"
    needs: ClassVar[tuple[Need, ...]] = (WEIGHT_NORMS,)
    source: ClassVar[str] = _FREEZE

    min_points: int = 5

    def __call__(self, run: Run) -> Iterator[Finding]:
        still, moving = still_and_moving(run, self.min_points)
        if not still or not any(depth(name) for name in moving) or LORA.all(run):
            return
        numbers = sorted(position[1] for name in still if (position := depth(name)))
        lowest_moving = min(position[1] for name in moving if (position := depth(name)))
        others = [name for name in still if not depth(name) and "embed" not in name.lower()]
        on_purpose = not others and all(number < lowest_moving for number in numbers)
        yield Finding(
            id=self.id,
            severity="note" if on_purpose else "warning",
            tags=tuple(f"{tags.WEIGHT_NORM}/{name}" for name in still),
            steps=(_first_step(run),),
            numbers={"still": len(still), "moving": len(moving)},
            means=f"Unchanged since the first point: {_join(still)}. {len(moving)} other layers train.",
            advice="If this is not intended, check requires_grad and the optimizer's parameter groups.",
            source=self.source,
        )


def still_and_moving(run: Run, min_points: int) -> tuple[list[str], list[str]]:
    """Returns the layers with a constant weight norm and no nonzero update ratio, and the other layers."""
    ratios = outermost(UPDATE_RATIOS.all(run))
    still: list[str] = []
    moving: list[str] = []
    for name, norms in outermost(WEIGHT_NORMS.all(run)).items():
        if len(norms) < min_points or not norms.values.any():
            continue
        is_still = _constant(norms) and not (name in ratios and ratios[name].values.any())
        (still if is_still else moving).append(name)
    return still, moving


def _constant(series: Series) -> bool:
    return bool((series.values == series.values[0]).all())


def _first_step(run: Run) -> int:
    return min(int(series.steps[0]) for series in WEIGHT_NORMS.all(run).values())


def _join(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
