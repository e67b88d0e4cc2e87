"""Selects the curves that the view shows: losses, and gradient norms before and after clipping."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.rules.required_series import CLIP_FACTOR, EVAL_LOSS, GRAD_NORM, TRAIN_LOSS
from tbx_callbacks.runs.series import Run, Series


class Pair(NamedTuple):
    """Two curves over the same steps: the main one, and one beside it. None is not logged."""

    main: Series | None
    beside: Series | None


def losses(run: Run) -> Pair:
    """Returns the losses of training and of evaluation."""
    train, evaluation = TRAIN_LOSS.first(run), EVAL_LOSS.first(run)
    return Pair(_known(train[1] if train else None), _known(evaluation[1] if evaluation else None))


def gradient_norms(run: Run) -> Pair:
    """Returns the norms of the gradients before and after clipping."""
    found = GRAD_NORM.first(run)
    before = _known(found[1] if found else None)
    after = _known(run.scalars.get(f"{tags.GRAD_NORM_CLIPPED}/{tags.TOTAL}"))
    factor = CLIP_FACTOR.first(run)
    if before is not None and after is None and factor is not None:
        after = _product(before, factor[1])
    return Pair(before, after)


def _known(series: Series | None) -> Series | None:
    return series if series is not None and len(series) else None


def _product(norm: Series, factor: Series) -> Series | None:
    """The product at the steps that both have."""
    steps, left, right = np.intersect1d(norm.steps, factor.steps, assume_unique=True, return_indices=True)
    with np.errstate(all="ignore"):
        values = norm.values[left] * factor.values[right]
    return Series(steps, values, norm.wall_times[left]) if steps.size else None
