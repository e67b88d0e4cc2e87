"""Defines the rules that find NaN and Inf."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tbx_callbacks import tags
from tbx_callbacks._text import count
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import EVAL_LOSS, GRAD_NORM, NONFINITE, TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import interval
from tbx_callbacks.runs.series import Run, Series, Steps

_WEIGHTS = f"{tags.NONFINITE_WEIGHTS}/{tags.TOTAL}"
_COUNTS = (
    tags.NONFINITE_LOSSES,
    f"{tags.NONFINITE_GRADIENTS}/{tags.TOTAL}",
    _WEIGHTS,
    tags.NONFINITE_FOUND,
)
_NAMED = re.compile(r"backward reached (\S+) first|weights hold .* groups, first (\S+)")


@dataclass(frozen=True)
class NonFinite(Rule):
    """The loss, a gradient or a weight is NaN or Inf; names the layer where it began.

    Only the first bad point identifies the layer: bad weights make the loss and every gradient bad too. With fp16 only
    the gradient norm may be Inf for some steps, which are then skipped. This is a note, unless the norm stays Inf.
    So is a loss that was bad for a few steps while the weights stayed finite: its gradients were zero, or not used.
    """

    id: ClassVar[str] = "nonfinite"
    code: ClassVar[str] = "TBX-NUM-001"
    needs: ClassVar[tuple[Need, ...]] = (NONFINITE,)
    source: ClassVar[str] = "PyTorch, autograd anomaly detection: docs.pytorch.org/docs/stable/autograd.html"

    lasts: int = 3  # bad losses in a row, up to the end, from which they are no matter of a few batches
    few: float = 0.1  # share of bad losses up to which finite weights make it a note

    def __call__(self, run: Run) -> Iterator[Finding]:
        bad = {
            tag: _first_or_none(run.scalars[tag].steps[run.scalars[tag].values > 0])
            for tag in _COUNTS
            if tag in run.scalars
        }
        bad |= {tag: _first_or_none(_bad_steps(series)) for tag, series in TRAIN_LOSS.all(run).items()}
        steps_by_tag = {tag: step for tag, step in bad.items() if step is not None}
        if steps_by_tag:
            yield self._finding_of(run, steps_by_tag)
            return
        norm = GRAD_NORM.first(run)
        steps = _bad_steps(norm[1]) if norm else np.empty(0, np.int64)
        if norm and len(steps):
            stays_bad = bool(steps[-1] == norm[1].steps[-1])
            yield Finding(
                id=self.id,
                severity="error" if stays_bad else "note",
                tags=(norm[0],),
                steps=tuple(int(step) for step in steps[:5]),
                numbers={"points": len(steps)},
                means=f"The gradient norm is NaN or Inf at {count(len(steps), 'point')}, first"
                f" {_interval(norm[1], steps[0])}"
                + (
                    ", and stays so. A step with such a gradient writes it into the weights, unless it is skipped."
                    if stays_bad
                    else ". Later points are finite, so these steps were probably skipped."
                ),
                advice="Add the metric nonfinite, which names the layer. With fp16, train in bf16 instead.",
                source=self.source,
            )

    def _finding_of(self, run: Run, bad: dict[str, int]) -> Finding:
        weights = run.scalars.get(_WEIGHTS)
        is_checked = weights is not None and bool((weights.steps >= min(bad.values())).any())
        are_finite = is_checked and _WEIGHTS not in bad
        if are_finite and set(bad) <= {f"{tags.NONFINITE_GRADIENTS}/{tags.TOTAL}", tags.NONFINITE_FOUND}:
            return self._skipped_finding(bad)
        losses = {tag: series for tag, series in _losses(run).items() if tag in bad}
        lasting = max((self._points_since_good(tag, series) for tag, series in losses.items()), default=self.lasts)
        if lasting < self.lasts and (are_finite or not (lasting or _counts_weights(run))):
            return self._passing_finding(losses, are_finite=are_finite)
        return self._error_finding(run, bad, are_finite=are_finite)

    def _points_since_good(self, tag: str, series: Series) -> float:
        """Returns the number of bad losses at the end; infinity if none was good."""
        good = np.flatnonzero(~_is_bad(tag, series))
        return len(series) - 1 - int(good[-1]) if len(good) else math.inf

    def _passing_finding(self, losses: dict[str, Series], *, are_finite: bool) -> Finding:
        """Returns the finding of a loss that was bad for a while, after which the training went on."""
        by_tag = {tag: _is_bad(tag, series) for tag, series in losses.items()}
        tag = max(by_tag, key=lambda one: int(by_tag[one].sum()))
        is_bad, series = by_tag[tag], losses[tag]
        number, first = int(is_bad.sum()), int(is_bad.argmax())
        return Finding(
            id=self.id,
            severity="note" if are_finite and number < max(self.lasts, self.few * len(series)) else "warning",
            tags=tuple(losses),
            steps=tuple(int(step) for step in series.steps[is_bad][:5]),
            numbers={"points": number},
            means=f"The training loss was NaN or Inf at {count(number, 'point')} of {len(series)}, first"
            f" {interval(series.steps, first)}. "
            + (
                "The weights stayed finite: no such loss has changed them."
                if are_finite
                else "Later losses are finite, so that the weights probably are, too."
            ),
            advice="Look at the batch of this step. Its labels may all be ignored, or its inputs may hold NaN. The"
            " metric bad_batches keeps its rows.",
            source=self.source,
        )

    def _skipped_finding(self, bad: dict[str, int]) -> Finding:
        return Finding(
            id=self.id,
            severity="note",
            tags=tuple(bad),
            steps=(min(bad.values()),),
            means=f"Gradients contained NaN or Inf at step {min(bad.values())}, but weights did not."
            " The step was skipped, as is normal while fp16 searches for its loss scale.",
            advice="Do nothing, unless it happens often. bf16 needs no loss scale.",
            source=self.source,
        )

    def _error_finding(self, run: Run, bad: dict[str, int], *, are_finite: bool) -> Finding:
        step = min(bad.values())
        layer = _first_bad_layer(run, step)
        tag_of_first = next(tag for tag, at in bad.items() if at == step)
        began = first_bad_step(run, step)
        when = f"since step {step}" if began is None else f"since step {began}, in the loss"
        if began is None and " and " in (found := _interval(run.scalars[tag_of_first], step)):
            when = f"that began {found}"
        tag = f"{tags.NONFINITE_GRADIENTS}/{layer}"
        where = f", first in {layer}" if layer else ""
        to_learn = (
            " To learn the layer, run nonfinite at every step (every: 1), and call callback.attach(trainer) or"
            " loop.before_clip()."
        )
        remedy = "" if layer else to_learn
        means = f"NaN or Inf {when}{where}. Each update carries it into more weights: training after this step is lost."
        advice = (
            "Go back to a checkpoint before this step and look at its batch. If the batch is sound, lower the learning"
            f" rate, clip gradients, or train in bf16 or fp32 instead of fp16.{remedy}"
        )
        if are_finite:
            means = f"NaN or Inf {when}{where}. The weights are finite so far: no such loss has changed them."
            advice = "Look at the batch of this step. Its labels may all be ignored, or its inputs may hold NaN."
        elif len(bad) == 1 and not _counts_weights(run) and _is_last(run.scalars[tag_of_first], step):
            means = f"NaN or Inf {when}{where}. If an update used it, it is in the weights, and training is lost."
        if _is_positive(run, f"{tags.WIRING}/first_loss_not_finite"):  # there is no checkpoint before it
            means = f"NaN or Inf since batch 1{where}. Each update carries it into more weights."
            if are_finite:
                means = f"NaN or Inf since batch 1{where}. The weights are finite so far."
            advice = "Look at the first batch: its inputs may hold NaN, and its labels may all be ignored."
        return Finding(
            id=self.id,
            severity="error",
            tags=(*([tag] if tag in run.scalars else []), *(tag for tag, at in bad.items() if at == step)),
            steps=(step,) if began in (None, step) else (began or step, step),
            numbers={tag: float(at) for tag, at in bad.items()},
            means=means,
            advice=advice,
            source=self.source,
        )


@dataclass(frozen=True)
class EvalLossNotFinite(Rule):
    """An evaluation loss is NaN or Inf, and the training is not lost."""

    id: ClassVar[str] = "eval_loss_not_finite"
    code: ClassVar[str] = "TBX-NUM-002"
    needs: ClassVar[tuple[Need, ...]] = (EVAL_LOSS,)
    source: ClassVar[str] = (
        "PyTorch, CrossEntropyLoss: docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html"
    )

    def __call__(self, run: Run) -> Iterator[Finding]:
        losses = {tag: series for tag, series in EVAL_LOSS.all(run).items() if len(_bad_steps(series))}
        of_training = list(NonFinite()(run))
        if not losses or any(finding.severity == "error" for finding in of_training):
            return
        tag = min(losses, key=lambda one: int(_bad_steps(losses[one])[0]))
        series, steps = losses[tag], _bad_steps(losses[tag])
        stays_bad = bool(steps[-1] == series.steps[-1])
        yield Finding(
            id=self.id,
            severity="error" if stays_bad else "warning",
            tags=tuple(losses),
            steps=tuple(int(step) for step in steps[:5]),
            numbers={"points": len(steps)},
            means=f"The evaluation loss is NaN or Inf at {count(len(steps), 'point')} of {len(series)}, first at step"
            f" {steps[0]}. "
            + (
                "The training had such numbers too, and went on."
                if of_training
                else "The training shows no such number: look for the cause in the evaluation's batches."
                if _losses(run)
                else "Whether the training has such numbers is not in the log."
            ),
            advice="Look at the labels of the evaluation. A batch whose labels are all ignored has no mean loss. Its"
            " inputs may hold NaN, too.",
            source=self.source,
        )


def _losses(run: Run) -> dict[str, Series]:
    counts = {tag: run.scalars[tag] for tag in (tags.NONFINITE_LOSSES,) if tag in run.scalars}
    return {**TRAIN_LOSS.all(run), **counts}


def _is_bad(tag: str, series: Series) -> NDArray[np.bool_]:
    """Returns for each point of a loss, or of a count of bad losses, whether it is bad."""
    return series.values > 0 if tag == tags.NONFINITE_LOSSES else ~np.isfinite(series.values)


def _counts_weights(run: Run) -> bool:
    return bool(len(run.scalars.get(_WEIGHTS, ())))


def _is_last(series: Series, step: int) -> bool:
    return bool(series.steps[-1] == step)


def _is_positive(run: Run, tag: str) -> bool:
    """Whether a series has a positive value."""
    series = run.scalars.get(tag)
    return series is not None and bool((series.values > 0).any())


def _first_bad_layer(run: Run, step: int) -> str | None:
    """Returns the layer where it began; None if unknown, or if the loss was bad first."""
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
        if tag.startswith(f"{tags.NONFINITE_GRADIENTS}/") and not tag.endswith(f"/{tags.TOTAL}")
    }
    # Backward reaches the last layers first, so search in reverse.
    return next((group for group, series in reversed(counts.items()) if series.steps[0] <= step), None)


def _bad_steps(series: Series) -> Steps:
    return series.steps[~np.isfinite(series.values)]


def _first_or_none(steps: Steps) -> int | None:
    return int(steps[0]) if len(steps) else None


def first_bad_step(run: Run, step: int) -> int | None:
    """Returns the first step with a bad loss, from the number of bad losses since the last point; None if unknown.

    The number tells it if every loss has been bad since: the next points show the number of losses in a step.
    """
    losses = run.scalars.get(tags.NONFINITE_LOSSES)
    if losses is None:
        return None
    index = int(np.searchsorted(losses.steps, step))
    if index == 0 or index + 1 >= len(losses) or losses.steps[index] != step:
        return None
    after = losses.values[index + 1 :] / np.diff(losses.steps)[index:]
    per_step, bad = float(after[0]), float(losses.values[index])
    length = int(step - losses.steps[index - 1])
    if bad <= 0 or per_step < 1 or not np.allclose(after, per_step, rtol=0.01) or bad / per_step > length:
        return None
    return step - math.ceil(bad / per_step) + 1


def _interval(series: Series, step: int) -> str:
    return interval(series.steps, int(np.searchsorted(series.steps, step)))
