"""Shows the values around a step: the main curves, and the layers that changed most."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks._text import short
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.tables import is_result
from tbx_callbacks.rules import Finding
from tbx_callbacks.rules.required_series import CLIP_FACTOR, GRAD_NORM, LEARNING_RATE, NONFINITE, TRAIN_LOSS
from tbx_callbacks.runs.series import Run, Series
from tbx_callbacks.summary.lines import findings_lines, fit

_MOST_JUMPS, _MOST_CURVES, _MOST_NAME = 8, 10, 40
_POINTS_BEFORE = 10  # points whose median is the usual value of a curve
_JUMP_FAMILIES = (tags.GRAD_NORM, tags.WEIGHT_NORM, tags.UPDATE_RATIO, tags.ACTIVATIONS)


@dataclass(frozen=True)
class Jump:
    """A value of a layer at the step, relative to the median of the points before it."""

    tag: str
    usual: float
    value: float
    step: int

    @property
    def size(self) -> float:
        """How many e-folds the value lies from the usual one; infinite if it is not finite."""
        if not math.isfinite(self.value):
            return math.inf
        if self.value == self.usual:
            return 0.0
        return abs(math.log(abs(self.value) / abs(self.usual))) if self.value and self.usual else 0.0


@dataclass(frozen=True)
class Around:
    """The values around a step.

    Attributes:
        name: the run.
        step: the step that was asked for.
        steps: steps with values within the window.
        curves: by tag, the value at each of `steps`; None where there is none.
        jumps: layers whose value at the step, or at the next point, differs most from the points before.
        findings: those with evidence within the window.
        has_batch: whether the batch of the step was kept.
        folder: the run's folder.
    """

    name: str
    step: int
    steps: tuple[int, ...]
    curves: Mapping[str, tuple[float | None, ...]]
    jumps: tuple[Jump, ...]
    findings: tuple[Finding, ...]
    has_batch: bool
    folder: str

    def text(self) -> str:
        """The values, findings first, in at most 2,400 characters."""
        return fit(_lines(self))


def values_around(loaded_run: LoadedRun, step: int, *, window: int = 5, curves: str | None = None) -> Around:
    """Returns the values around a step.

    Args:
        loaded_run: the run.
        step: the step.
        window: the number of points before and after it.
        curves: regex of full tags; by default loss, gradient norm, clipping, learning rate, results, counts of NaN.

    Raises:
        ValueError: the run has no value near the step, or `curves` is no regex or matches no tag.
    """
    run = loaded_run.run
    selected = _selected(run, curves)
    grid = np.unique(np.concatenate([series.steps for series in selected.values()]))
    if not grid.size or not grid[0] <= step <= grid[-1]:
        reach = f"{grid[0]} to {grid[-1]}" if grid.size else "none"
        raise ValueError(f"--step must be a step with values of the run, got {step}; its steps are {reach}")
    middle = int(np.searchsorted(grid, step))
    steps = grid[max(0, middle - window) : middle + window + 1]
    reached = int(max(step - steps[0], steps[-1] - step))
    return Around(
        loaded_run.name,
        step,
        tuple(int(one) for one in steps),
        {tag: _at(series, steps) for tag, series in selected.items()},
        _jumps(run, step),
        tuple(found for found in loaded_run.diagnosis.findings if _is_near(found, step, reached)),
        any(batch.step == step for batch in loaded_run.bad_batches),
        loaded_run.folder,
    )


def _selected(run: Run, curves: str | None) -> dict[str, Series]:
    if curves is None:
        needs = (TRAIN_LOSS, GRAD_NORM, CLIP_FACTOR, LEARNING_RATE)
        found = dict(entry for need in needs if (entry := need.first(run)) is not None)
        counts = {tag: series for tag, series in NONFINITE.all(run).items() if tag.startswith(tags.NONFINITE)}
        return found | {tag: series for tag, series in run.scalars.items() if is_result(tag)} | counts
    try:
        pattern = re.compile(curves)
    except re.error as error:
        raise ValueError(f"--curves must be a regex, got {short(curves)}: {error}") from error
    matching = {tag: series for tag, series in run.scalars.items() if pattern.fullmatch(tag)}
    if not matching:
        raise ValueError(f"--curves must match a tag of the run, got {short(curves)}; show RUN lists the kinds of tags")
    return matching


def _is_near(finding: Finding, step: int, reach: int) -> bool:
    return any(abs(found - step) <= reach for found in finding.steps)


def _at(series: Series, steps: np.ndarray) -> tuple[float | None, ...]:
    known = dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
    return tuple(known.get(int(step)) for step in steps)


def _jumps(run: Run, step: int) -> tuple[Jump, ...]:
    """The layers that differ most from before; the total of a family is no layer."""
    found = []
    for tag, series in run.scalars.items():
        if tag.startswith(tuple(f"{family}/" for family in _JUMP_FAMILIES)) and not tag.endswith(f"/{tags.TOTAL}"):
            index = int(np.searchsorted(series.steps, step))
            before = series.values[max(0, index - _POINTS_BEFORE) : index]
            before = before[np.isfinite(before)]
            if index < len(series) and before.size:
                found.append(Jump(tag, float(np.median(before)), float(series.values[index]), int(series.steps[index])))
    found.sort(key=lambda jump: -jump.size)
    return tuple(jump for jump in found[:_MOST_JUMPS] if jump.size > math.log(2))


def _lines(around: Around) -> Iterator[str]:
    yield f"run {around.name}, around step {around.step}"
    yield from findings_lines(around.findings, 800)
    if not around.findings:
        yield "no finding near this step"
    if around.has_batch:
        yield f"the batch was kept: tbx-callbacks batch {around.folder} {around.step}"
    for jump in around.jumps:
        yield f"jump: {jump.tag} {jump.usual:.3g} before, {jump.value:.3g} at step {jump.step}"
    shown = list(around.curves.items())[:_MOST_CURVES]
    yield "step: " + " | ".join(tag if len(tag) <= _MOST_NAME else f"...{tag[3 - _MOST_NAME :]}" for tag, _ in shown)
    for index, step in enumerate(around.steps):
        values = [series[index] for _, series in shown]
        mark = ">" if step == around.step else " "
        yield f"{mark} {step}: " + " | ".join("-" if value is None else f"{value:.4g}" for value in values)
    if len(around.curves) > _MOST_CURVES:
        yield f"and {len(around.curves) - _MOST_CURVES} more curves; choose with --curves"
