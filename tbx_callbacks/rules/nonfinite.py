"""NaN and Inf."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import EVAL_LOSS, GRAD_NORM, NONFINITE, TRAIN_LOSS, Need
from tbx_callbacks.runs.series import Run, Series, Steps

_COUNTS = (
    tags.NONFINITE_LOSSES,
    f"{tags.NONFINITE_GRADIENTS}/total",
    f"{tags.NONFINITE_WEIGHTS}/total",
    tags.NONFINITE_FOUND,
)
_NAMED = re.compile(r"backward reached (\S+) first|weights hold .* groups, first (\S+)")


@dataclass(frozen=True)
class NonFinite(Rule):
    """The loss, a gradient or a weight is NaN or Inf; names the layer where it began.

    The layer can be told only from the point at which it began: once the weights are bad the loss is, and every
    gradient. A norm of the gradient alone may be Inf for some steps under fp16, which skips them: a note, unless it
    stays so.
    """

    id: ClassVar[str] = "nonfinite"
    needs: ClassVar[tuple[Need, ...]] = (NONFINITE,)
    source: ClassVar[str] = "PyTorch, autograd anomaly detection: docs.pytorch.org/docs/stable/autograd.html"

    def __call__(self, run: Run) -> Iterator[Finding]:
        bad = {
            tag: _first(run.scalars[tag].steps[run.scalars[tag].values > 0]) for tag in _COUNTS if tag in run.scalars
        }
        losses = {**TRAIN_LOSS.all(run), **EVAL_LOSS.all(run)}
        bad |= {tag: _first(_bad_steps(series)) for tag, series in losses.items()}
        steps_by_tag = {tag: step for tag, step in bad.items() if step is not None}
        if steps_by_tag:
            harmless = _only_gradients(run, steps_by_tag)
            yield self._skipped(steps_by_tag) if harmless else self._found(run, steps_by_tag)
            return
        norm = GRAD_NORM.first(run)
        steps = _bad_steps(norm[1]) if norm else np.empty(0, np.int64)
        if norm and len(steps):
            stays = bool(steps[-1] == norm[1].steps[-1])
            yield Finding(
                id=self.id,
                severity="error" if stays else "note",
                tags=(norm[0],),
                steps=tuple(int(step) for step in steps[:5]),
                numbers={"points": len(steps)},
                means=f"The gradient's norm is NaN or Inf at {len(steps)} points from step {steps[0]} on"
                + (" and stays so." if stays else "; fp16 skips such steps, else they would have spoiled the weights."),
                advice="Log the metric nonfinite, which names the layer; train in bf16 instead of fp16.",
                source=self.source,
            )

    def _skipped(self, bad: dict[str, int]) -> Finding:
        return Finding(
            id=self.id,
            severity="note",
            tags=tuple(bad),
            steps=(min(bad.values()),),
            means=f"Gradients held NaN or Inf at step {min(bad.values())}, but no weight did: the step was skipped, as"
            " fp16"
            " does it to find its loss scale.",
            advice="Nothing, unless it happens often; bf16 needs no loss scale.",
            source=self.source,
        )

    def _found(self, run: Run, bad: dict[str, int]) -> Finding:
        step = min(bad.values())
        layer = _first_bad_layer(run, step)
        tag = f"{tags.NONFINITE_GRADIENTS}/{layer}"
        where = f", first in {layer}" if layer else ""
        remedy = "" if layer else " Log nonfinite at every step (every: 1), attached, to see in which layer it begins."
        return Finding(
            id=self.id,
            severity="error",
            tags=(*([tag] if tag in run.scalars else []), *(tag for tag, at in bad.items() if at == step)),
            steps=(step,),
            numbers={tag: float(at) for tag, at in bad.items()},
            means=f"NaN or Inf from step {step} on{where}: what was trained after it is lost.",
            advice="Go back to a checkpoint before; look at the batch of that step; lower the learning rate, clip"
            f" gradients, or train in bf16 or fp32 instead of fp16.{remedy}",
            source=self.source,
        )


def _only_gradients(run: Run, bad: dict[str, int]) -> bool:
    """Whether only gradients were bad, and the weights are known to have stayed good."""
    weights = run.scalars.get(f"{tags.NONFINITE_WEIGHTS}/total")
    return (
        set(bad) <= {f"{tags.NONFINITE_GRADIENTS}/total", tags.NONFINITE_FOUND}
        and weights is not None
        and len(weights) > 0
    )


def _first_bad_layer(run: Run, step: int) -> str | None:
    """The layer in which it began; None where the loss was bad before any gradient was looked at."""
    losses = run.scalars.get(tags.NONFINITE_LOSSES)
    if losses is not None and (losses.values[losses.steps <= step] > 0).any():
        return None
    texts = run.texts.get(tags.NONFINITE_FIRST_BAD)
    if texts is not None and texts.steps[0] <= step:
        named = _NAMED.search(texts.values[0])
        return (named[1] or named[2]) if named else None
    counts = {
        tag.removeprefix(f"{tags.NONFINITE_GRADIENTS}/"): run.scalars[tag]
        for tag in run.scalars
        if tag.startswith(f"{tags.NONFINITE_GRADIENTS}/") and not tag.endswith("/total")
    }
    # Backward reaches the last layers first.
    return next((group for group, series in reversed(counts.items()) if series.steps[0] <= step), None)


def _bad_steps(series: Series) -> Steps:
    return series.steps[~np.isfinite(series.values)]


def _first(steps: Steps) -> int | None:
    return int(steps[0]) if len(steps) else None
