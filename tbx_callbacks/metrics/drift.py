"""Defines the metric that compares the weights with those at the start of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tbx_callbacks._model.parameters import Select
from tbx_callbacks._stats.norms import accumulation_dtype, square_norms
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Mean, Ratio
from tbx_callbacks.tags import DRIFT, MOVED_SHARE


@dataclass(frozen=True)
class Drift(Metric):
    """Distance of the weights from those at the start of the training, divided by the norm of the latter.

    `drift` is `sqrt(sum((w - w0)**2)) / sqrt(sum(w0**2))` over a group's parameters, where `w0` are the weights before
    the first step; the L2-SP distance of Li et al. 2018 (arXiv:1802.01483), relative. `moved_share` is the share of
    elements that differ from `w0`: 16-bit weights round small updates away. Both are not finite if a weight is not. A
    training that is resumed compares with the start of its first part.

    Parameters that are frozen at the start have no part in it, also if they are unfrozen later (one warning), and
    neither have those that are replaced or resized. Those that are frozen later keep their part, also over a resume.
    `drift` is left out where all of `w0` is zero.

    `w0` is a file in the run's folder for each rank, `initial_weights/rank_<n>.bin`, as large as the trained weights.
    In a remote or read-only folder it is in the host's memory, and a resumed training leaves the metric out. Merged
    over ranks as sums of squares and counts; each rank keeps the elements that it counts. Cost: reading the file and
    two passes over the trained weights, one parameter at a time; a second `drift` in the set adds none.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{DRIFT}/{{group}}": "", f"{MOVED_SHARE}/{{group}}": "share of elements"}
    needs: ClassVar[frozenset[str]] = frozenset({"initial_weights"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "reads the initial weights from a file, two passes over the trained weights"

    def __call__(self, context: Context) -> Values:
        initial = context.initial_weights
        if initial is None:
            return {}
        squares, moved = context.sums_by_group(initial, (_square_distance, _count_moved), context.weights)
        starts, elements = (context.selection.sums(n, initial.present) for n in (initial.squares, initial.numels))
        return {f"{DRIFT}/{{group}}": Ratio(squares, starts), f"{MOVED_SHARE}/{{group}}": Mean(moved, elements)}


def _square_distance(initial: Tensor, current: Tensor) -> Tensor:
    return square_norms([current - initial])[0]


def _count_moved(initial: Tensor, current: Tensor) -> Tensor:
    """The number of elements that differ; NaN unless all are finite."""
    moved = torch.count_nonzero(current != initial).to(accumulation_dtype(current.device))
    return torch.where(current.isfinite().all(), moved, torch.nan)
