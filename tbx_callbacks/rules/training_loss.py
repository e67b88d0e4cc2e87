"""Finds the training loss that a run minimises, and measures its fall on a scale that suits its sign."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.rules.required_series import ADVERSARIAL, LEARNING_RATE, POLICY, TRAIN_LOSS
from tbx_callbacks.rules.series_stats import ends, finite, noise, smooth, width_for
from tbx_callbacks.runs.series import Floats, Run, Series

_CLEAR = 5.0  # a fall of this many standard deviations of the noise is no chance

_STRAIGHT = 0.7  # minimum share of the way that leads down

_ENOUGH = 20  # points; of fewer, one low loss at the start is no reference
_FIRST = 5  # points before an explosion, at most
_EARLY = 0.3  # share of the points in which its peak lies
_TIMES = 2.0  # a rise by less is none
_LUCKY = 0.2  # share of the losses at the peak that may be low: some batches are right by chance
_LEARNED = 0.5  # a loss below this share of the first ones, before the rise: the data differ


@dataclass(frozen=True)
class Fall:
    """The course of a loss: medians of its first and last points, and its lowest running median.

    `scale` is what rises are compared with. It is the first loss if no loss is negative; a negative loss has no natural
    zero, so its scale is its fall so far. It is 0 for a loss that cannot be judged: around zero, without a clear fall.
    """

    start: float
    low: float
    end: float
    scale: float
    is_signed: bool


def fall_of(values: Floats) -> Fall:
    """Measures the course of finite losses."""
    start, end = ends(values)
    smoothed = smooth(values, min(width_for(len(values)), len(values)))
    low = float(smoothed.min())
    is_signed = bool((values < 0).any())
    if is_signed:
        fall = start - low
        is_clear = fall > _CLEAR * noise(values) and _is_straight(smoothed[: int(smoothed.argmin()) + 1])
        scale = fall if is_clear else 0.0
    else:
        scale = start
    return Fall(start, low, end, scale, is_signed)


def exploded_from(values: Floats) -> float | None:
    """Returns the loss before a rise in the first few points that no noise explains; None without such a rise.

    Medians of the first points do not show it: they are of the risen loss. What counts is the logarithm, because the
    noise of a risen loss is as large as the loss itself. Losses are finite; negative ones have no logarithm.
    """
    if len(values) < _ENOUGH or (values < 0).any():
        return None
    width = width_for(len(values))
    for number in range(1, _FIRST + 1):
        first, later = float(values[:number].max()), values[number:]
        risen = np.flatnonzero(later > _TIMES * first)
        if first <= 0 or not len(risen) or values[: number + int(risen[0])].min() < _LEARNED * first:
            continue
        early = later[: max(width, round(_EARLY * len(later)))]
        medians = smooth(early, width)
        peak = int(medians.argmax())
        spread = _CLEAR * noise(np.log(later[later > 0]))
        is_clear = np.log(medians[peak] / first) > max(np.log(_TIMES), spread)
        if is_clear and np.quantile(early[peak : peak + width], _LUCKY) > _TIMES * first:
            return first
    return None


def _is_straight(falling: Floats) -> bool:
    """Whether a curve went down without much up and down: a loss that is not minimised only wanders."""
    marks = falling[np.linspace(0, len(falling) - 1, min(10, len(falling))).astype(int)]
    way = float(np.abs(np.diff(marks)).sum())
    return way > 0 and (marks[0] - marks[-1]) / way > _STRAIGHT


def not_minimised(run: Run) -> str | None:
    """Returns what rules about its fall are for, if the training loss need not fall; None if it is minimised."""
    if POLICY.all(run):
        return "losses that must fall; that of a policy gradient says nothing about progress"
    if ADVERSARIAL.all(run):
        return "losses that must fall; those of two adversaries balance each other"
    return None


def has_no_scale(run: Run) -> str | None:
    """Returns what rules about shares of the initial loss are for, if the loss falls below zero; else None.

    Losses below zero have no natural zero, so that a share of them means nothing.
    """
    entry = training_loss(run)
    return "losses above zero" if entry is not None and bool((entry[1].values < 0).any()) else None


def training_loss(run: Run) -> tuple[str, Series] | None:
    """Returns the tag and the finite points of the training loss; None without one, or if it need not fall."""
    entry = TRAIN_LOSS.first(run)
    if entry is None or not_minimised(run):
        return None
    return entry[0], finite(entry[1])


def has_learned(run: Run, share: float = 0.3) -> bool:
    """Whether the training loss clearly fell, by `share` of its scale, and stays there."""
    entry = training_loss(run)
    if entry is None or len(entry[1]) < 5:
        return False
    fall = fall_of(entry[1].values)
    return fall.scale > 0 and fall.start - fall.end > share * fall.scale


def rate_share(run: Run) -> float | None:
    """Returns the last learning rate as a share of its peak; None without learning rates."""
    rates = LEARNING_RATE.first(run)
    values = finite(rates[1]).values if rates else np.empty(0)
    return float(values[-1] / values.max()) if len(values) and values.max() > 0 else None


def points_since_peak(run: Run, loss: Series) -> int:
    """Returns the number of losses since the learning rate reached its peak; all of them without learning rates."""
    rates = LEARNING_RATE.first(run)
    if rates is None or not len(series := finite(rates[1])):
        return len(loss)
    peak = int(series.steps[int((series.values >= 0.99 * series.values.max()).argmax())])
    return int((loss.steps >= peak).sum())


def first_loss(run: Run) -> float | None:
    """Returns what the first batch tells of the loss before any step: its loss, or that of equal probabilities.

    The larger of the two, because one batch may be lucky. None if it is unknown, or if the logged loss is a sum.
    """
    found, multiple, sums = (
        run.scalars.get(f"{tags.WIRING}/{name}") for name in ("first_loss", "first_loss_unusual", "gradients_summed")
    )
    if found is None or multiple is None or not multiple.values[0] or (sums is not None and (sums.values > 0).any()):
        return None
    loss = float(found.values[0])
    return max(loss, loss / float(multiple.values[0]))
