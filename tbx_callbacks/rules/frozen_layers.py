"""Defines the rules that find layers that do not train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks import tags
from tbx_callbacks._text import count
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import (
    ADAPTERS,
    LAYER_GRAD_NORMS,
    LORA,
    UPDATE_RATIOS,
    WEIGHT_NORMS,
    Need,
)
from tbx_callbacks.rules.series_stats import depth, outermost
from tbx_callbacks.runs.series import Run, Series

_FREEZE = "Howard and Ruder 2018, ULMFiT, section 3.3 (which layers to freeze, and when), arXiv:1801.06146"


@dataclass(frozen=True)
class ZeroGradient(Rule):
    """The gradient of a trainable layer is exactly zero."""

    id: ClassVar[str] = "zero_gradient"
    code: ClassVar[str] = "TBX-GRAD-003"
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
                means=f"The gradient of {_join(zero)} is zero at {self.share:.0%} of the points or more: trainable, but"
                " no gradient reaches it. It does not learn; weight decay may still shrink it.",
                advice="Look for a detach() between it and the loss. Other causes are an argmax, dead ReLUs, a mask,"
                " and an output that the loss does not use.",
                source=self.source,
            )


@dataclass(frozen=True)
class AllFrozen(Rule):
    """No weight changes at all."""

    id: ClassVar[str] = "all_frozen"
    code: ClassVar[str] = "TBX-UPD-001"
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
                means=f"No weight of {count(len(still), 'layer')} has changed since the first point, step"
                f" {_first_step(run)}. Nothing is trained.",
                advice="Check that the optimizer has this model's parameters. Then check the learning rate and"
                " requires_grad.",
                source=self.source,
            )


@dataclass(frozen=True)
class HeadOnly(Rule):
    """Only the head is trained: the layers outside the numbered stack, or the last layer if none has a number."""

    id: ClassVar[str] = "head_only"
    code: ClassVar[str] = "TBX-UPD-002"
    needs: ClassVar[tuple[Need, ...]] = (WEIGHT_NORMS,)
    source: ClassVar[str] = "Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features, arXiv:2202.10054"
    only_notes: ClassVar[bool] = True

    min_points: int = 5

    def __call__(self, run: Run) -> Iterator[Finding]:
        still, moving = still_and_moving(run, self.min_points)
        if is_head_only(still, moving):
            number = len([name for name in still if depth(name)]) or len(still)
            others = "1 other layer is" if number == 1 else f"all {number} layers are"
            yield Finding(
                id=self.id,
                severity="note",
                tags=tuple(f"{tags.WEIGHT_NORM}/{name}" for name in still),
                steps=(_first_step(run),),
                numbers={"still": len(still), "moving": len(moving)},
                means=f"Only {_join([*moving])} is trained; {others} frozen (a linear probe)."
                " The frozen layers keep their initial weights, pretrained or random.",
                advice="Do nothing, if a linear probe is intended. Otherwise set requires_grad of the layers and pass"
                " their parameters to the optimizer.",
                source=self.source,
            )


@dataclass(frozen=True)
class FrozenLayers(Rule):
    """Some layers do not change while others train.

    This is a note if only the lowest layers are frozen, which is common on purpose, or a pooler that no gradient
    reaches, which is not used; otherwise it is a warning. Beside adapters such as LoRA, layers are frozen on purpose.
    """

    id: ClassVar[str] = "frozen_layers"
    code: ClassVar[str] = "TBX-UPD-003"
    needs: ClassVar[tuple[Need, ...]] = (WEIGHT_NORMS,)
    source: ClassVar[str] = _FREEZE

    min_points: int = 5

    def __call__(self, run: Run) -> Iterator[Finding]:
        still, moving = still_and_moving(run, self.min_points)
        has_adapters = any(need.all(run) for need in (ADAPTERS, LORA))
        if not still or not moving or has_adapters or is_head_only(still, moving):
            return
        gradients = outermost(LAYER_GRAD_NORMS.all(run))
        unused = [name for name in still if "pooler" in name.lower() and name not in gradients]
        frozen = {name: place for name, place in still.items() if name not in unused}
        on_purpose = _lie_below(frozen, moving)
        why = " No gradient reaches the pooler: the loss does not use it." if unused and not frozen else ""
        yield Finding(
            id=self.id,
            severity="note" if on_purpose else "warning",
            tags=tuple(f"{tags.WEIGHT_NORM}/{name}" for name in still),
            steps=(_first_step(run),),
            numbers={"still": len(still), "moving": len(moving)},
            means=f"Unchanged since the first point: {_join([*still])}. {len(moving)} other layers train.{why}"
            " Unchanged layers keep their initial weights, pretrained or random.",
            advice="Check requires_grad of these layers, unless they are frozen on purpose. Then check that the"
            " optimizer's parameter groups contain them.",
            source=self.source,
        )


def is_head_only(still: Mapping[str, int], moving: Mapping[str, int]) -> bool:
    """Whether everything but a head is frozen. Both map layers to their position in the model."""
    if not still or not moving:
        return False
    if any(depth(name) for name in (*still, *moving)):
        return any(depth(name) for name in still) and not any(depth(name) for name in moving)
    return len(moving) == 1 and min(moving.values()) > max(still.values())


def _lie_below(still: Mapping[str, int], moving: Mapping[str, int]) -> bool:
    """Whether all frozen layers come before the first one that trains; embeddings always do."""
    numbers = [position[1] for name in moving if (position := depth(name))]
    if numbers:
        others = [name for name in still if not depth(name) and "embed" not in name.lower()]
        return not others and all(position[1] < min(numbers) for name in still if (position := depth(name)))
    first = min(moving.values())
    return all(place < first for name, place in still.items() if "embed" not in name.lower())


def still_and_moving(run: Run, min_points: int) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the layers with a constant weight norm and no nonzero update ratio, and the other layers.

    The values are their positions in the model.
    """
    ratios = outermost(UPDATE_RATIOS.all(run))
    still: dict[str, int] = {}
    moving: dict[str, int] = {}
    for place, (name, norms) in enumerate(outermost(WEIGHT_NORMS.all(run)).items()):
        if len(norms) < min_points or not norms.values.any():
            continue
        is_still = _constant(norms) and not (name in ratios and ratios[name].values.any())
        (still if is_still else moving)[name] = place
    return still, moving


def _constant(series: Series) -> bool:
    return bool((series.values == series.values[0]).all())


def _first_step(run: Run) -> int:
    return min(int(series.steps[0]) for series in WEIGHT_NORMS.all(run).values())


def _join(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
