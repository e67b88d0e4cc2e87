"""Defines the rule that finds ranks whose copies of the model differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import REPLICAS, Need
from tbx_callbacks.rules.series_stats import interval
from tbx_callbacks.runs.series import Run, Series

_MOST_NAMES = 3
_MODEL = {tags.REPLICAS_WEIGHTS: "weights", tags.REPLICAS_STATE: "optimizer state"}
_REMEDIES = {
    tags.REPLICAS_WEIGHTS: "Wrap the model in DistributedDataParallel, or reduce every gradient in every step. Load the"
    " same checkpoint on every rank, or broadcast the weights of rank 0 before the first step.",
    tags.REPLICAS_STATE: "Load the optimizer's state from the same checkpoint on every rank.",
}
_NOTES = {
    tags.REPLICAS_UNMATCHED: (
        "{layers}: the ranks have had other weights under the same names since the training began. They count as parts"
        " of one model.",
        "If they should be copies, load the same checkpoint on every rank, and wrap the model in"
        " DistributedDataParallel. Else give the parts different names.",
    ),
    tags.REPLICAS_BUFFERS: (
        "{layers}: the buffers, such as running statistics of BatchNorm, differ between ranks. An evaluation depends on"
        " the rank that runs it.",
        "Use SyncBatchNorm, or broadcast_buffers=True in DistributedDataParallel, if this is not intended.",
    ),
}


@dataclass(frozen=True)
class ReplicasDiffer(Rule):
    """Copies of a layer have other weights, or another optimizer state, on other ranks; names layers and ranks.

    Copies that are the same again at a later point are a note, because some algorithms average weights now and then.
    So are buffers that differ, and parameters that are perhaps no copies.
    """

    id: ClassVar[str] = "replicas_differ"
    code: ClassVar[str] = "TBX-DIST-001"
    needs: ClassVar[tuple[Need, ...]] = (REPLICAS,)
    source: ClassVar[str] = (
        "PyTorch, Distributed Data Parallel, internal design: docs.pytorch.org/docs/stable/notes/ddp.html"
    )

    def __call__(self, run: Run) -> Iterator[Finding]:
        first = {
            kind: (series, index)
            for kind in (*_MODEL, *_NOTES)
            if (series := run.scalars.get(f"{kind}/{tags.TOTAL}")) is not None
            and (index := _first_nonzero(series)) is not None
        }
        kinds = [kind for kind in first if kind in _MODEL] or list(first)
        if kinds:
            kind = min(kinds, key=lambda each: int(first[each][0].steps[first[each][1]]))
            yield (self._finding if kind in _MODEL else self._note)(run, kind, *first[kind])

    def _finding(self, run: Run, kind: str, total: Series, index: int) -> Finding:
        step = int(total.steps[index])
        layers, ranks = _layers(run, kind, step), _ranks(run, step)
        where = interval(total.steps, index) if index else f"since the first point, at step {step}"
        stays = bool((total.values[index:] > 0).all())
        consequence = (
            ". The ranks train different models, and usually only that of the first rank is saved."
            if stays
            else ", and are the same again later, as where an algorithm averages them now and then."
        )
        return Finding(
            id=self.id,
            severity="error" if stays else "note",
            tags=(f"{kind}/{tags.TOTAL}", *(f"{kind}/{layer}" for layer in layers)),
            steps=(step,),
            numbers={"layers": float(total.values[index]), **ranks},
            means=f"The copies of the {_MODEL[kind]} of {_named(layers)} differ between ranks"
            f" {where}{_who(ranks)}{consequence}",
            advice=_REMEDIES[kind],
            source=self.source,
        )

    def _note(self, run: Run, kind: str, total: Series, index: int) -> Finding:
        layers, (means, advice) = _layers(run, kind, int(total.steps[index])), _NOTES[kind]
        return Finding(
            id=self.id,
            severity="note",
            tags=(f"{kind}/{tags.TOTAL}", *(f"{kind}/{layer}" for layer in layers)),
            steps=(int(total.steps[index]),),
            numbers={"layers": float(total.values[index])},
            means=means.format(layers=_named(layers)),
            advice=advice,
            source=self.source,
        )


def _first_nonzero(series: Series) -> int | None:
    found = np.flatnonzero(series.values > 0)
    return int(found[0]) if len(found) else None


def _layers(run: Run, kind: str, step: int) -> list[str]:
    """Returns the layers that differ at a step, in the order in which the run wrote them."""
    prefix, total = f"{kind}/", f"{kind}/{tags.TOTAL}"
    found = [tag for tag in run.scalars if tag.startswith(prefix) and tag != total]
    return [tag.removeprefix(prefix) for tag in found if step in run.scalars[tag].steps]


def _ranks(run: Run, step: int) -> dict[str, float]:
    """Returns the lowest and the highest rank that are known to differ at a step."""
    ranks = {}
    for tag in (tags.REPLICAS_LOWEST_RANK, tags.REPLICAS_HIGHEST_RANK):
        series = run.scalars.get(tag)
        if series is not None and step in series.steps:
            ranks[tag.removeprefix(f"{tags.REPLICAS}/")] = float(series.values[series.steps == step][0])
    return ranks


def _who(ranks: Mapping[str, float]) -> str:
    if not ranks:
        return ""
    low, high = int(min(ranks.values())), int(max(ranks.values()))
    return f", on rank {low}" if low == high else f", on ranks {low} and {high} and perhaps on others"


def _named(layers: list[str]) -> str:
    shown, more = ", ".join(layers[:_MOST_NAMES]) or "some layers", len(layers) - _MOST_NAMES
    return f"{shown} and {more} more layer{'s' if more > 1 else ''}" if more > 0 else shown
