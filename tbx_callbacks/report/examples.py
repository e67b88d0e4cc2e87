"""Draws the data map of a run's training rows, and lists the hardest rows and those whose label may be wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from tbx_callbacks import tags
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.plain_figure import plain_figure
from tbx_callbacks.report.tables import json_of, relative_path
from tbx_callbacks.runs.examples import ExampleTable

_MAX_POINTS = 4000
_MAX_LISTED = 25
_KINDS = (
    ("right every time", "#0072b2", "circle"),
    ("right sometimes", "#c98a00", "diamond"),
    ("never right", "#d55e00", "x"),
)


@dataclass(frozen=True)
class Table:
    """A table of texts under a figure."""

    title: str
    about: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    wide: tuple[str, ...] = ("text",)
    """Columns of texts, which are left-aligned and wrapped."""


def data_maps(loaded_runs: Sequence[LoadedRun]) -> dict[str, go.Figure]:
    """Draws confidence over variability of each row, one map for each run that has rows."""
    maps = {}
    for index, loaded_run in enumerate(loaded_runs):
        if loaded_run.examples is not None:
            of_run = f" of {plain(loaded_run.name)}" if len(loaded_runs) > 1 else ""
            maps[f"data_map_{index}"] = _data_map(loaded_run.examples, index, of_run)
    return maps


def _data_map(table: ExampleTable, run: int, of_run: str) -> go.Figure:
    share = table.correctness
    masks = (share == 1, (share > 0) & (share < 1), share == 0)
    traces = []
    for (name, colour, symbol), mask in zip(_KINDS, masks, strict=True):
        indices = np.flatnonzero(mask & np.isfinite(table.confidence))
        most = max(1, _MAX_POINTS * len(indices) // max(1, len(table)))
        shown = indices[np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).astype(np.intp))]
        traces.append(
            go.Scatter(
                x=table.variability[shown].astype(np.float32),
                y=table.confidence[shown].astype(np.float32),
                mode="markers",
                name=f"{name} ({len(indices):,})",
                marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.6},
                text=[_described(table, i) for i in shown],
                hovertemplate="%{text}<br>confidence %{y:.3f}, variability %{x:.3f}<extra></extra>",
                meta={"run": run},
            )
        )
    seen = np.unique(table.seen)
    times = f"{seen[0]}" if len(seen) == 1 else f"{seen[0]} to {seen[-1]}"
    about = (
        f"{len(table):,} training rows, each seen {times} times. Top left: easy. Right: ambiguous. Bottom left: hard,"
        " or a wrong label."
    )
    if seen[-1] == 1:
        about = f"{len(table):,} training rows, each seen once: a variability needs more epochs."
    return plain_figure(traces).update_layout(
        title=f"Data map{of_run}",
        xaxis={"title": "variability of the true class's probability", "rangemode": "tozero"},
        yaxis={"title": "confidence (its mean)", "range": [-0.02, 1.02]},
        showlegend=True,
        meta={"kind": "curve", "about": about},
    )


def _described(table: ExampleTable, index: int) -> str:
    key = table.keys[index]
    return plain(key) + (f": {plain(table.texts[key], 100)}" if key in table.texts else "")


def row_tables(loaded_runs: Sequence[LoadedRun]) -> tuple[Table, ...]:
    """The hardest rows, and those whose label may be wrong, of each run that has rows."""
    all_tables: list[Table] = []
    for loaded_run in loaded_runs:
        table = loaded_run.examples
        of_run = f" of {loaded_run.name}" if len(loaded_runs) > 1 else ""
        if loaded_run.bad_batches:
            all_tables.append(_bad_table(loaded_run, of_run))
        if table is None:
            continue
        suspects, names = table.suspects(), _class_names(loaded_run)
        left_out = f" Left out: {'; '.join(table.left_out)}." if table.left_out else ""
        all_tables.append(
            _table(table, table.hardest(), f"Hardest rows{of_run}", f"The largest mean losses.{left_out}", names)
        )
        if len(suspects):
            about = (
                f"{len(suspects):,} rows with a low probability of their label that hardly changes, for which the model"
                " predicts another class: look at their labels first."
            )
            all_tables.append(_table(table, suspects, f"Labels that may be wrong{of_run}", about, names))
    return tuple(all_tables)


def _bad_table(loaded_run: LoadedRun, of_run: str) -> Table:
    batches = loaded_run.bad_batches
    rows = []
    for batch in batches[:_MAX_LISTED]:
        losses = [(row.key, row.loss) for each in batch.micro_batches for row in each.rows if row.loss is not None]
        losses.sort(key=lambda row: row[1] if math.isfinite(row[1]) else math.inf, reverse=True)
        named = ", ".join(f"{key} ({loss:.4g})" for key, loss in losses[:3])
        rows.append((str(batch.step), str(batch.rank), "; ".join(batch.reasons), named))
    more = f". The first {_MAX_LISTED} of {len(batches)} are listed." if len(batches) > _MAX_LISTED else ""
    folder = relative_path(loaded_run.folder)
    about = f"All rows of a step: tbx-callbacks batch {folder} {batches[0].step}{more}"
    head = ("step", "rank", "why", "rows with the largest loss")
    return Table(f"Batches of bad steps{of_run}", about, head, tuple(rows), head[2:])


def _table(table: ExampleTable, indices: NDArray[np.intp], title: str, about: str, names: dict[int, str]) -> Table:
    shown = indices[:_MAX_LISTED]
    more = len(indices) - len(shown)
    head = ["row", "mean loss", "confidence", "variability", "label", "predicted"]
    has_groups, has_texts = bool(table.groups), any(table.keys[i] in table.texts for i in shown)
    head += ["group"] * has_groups + ["text"] * has_texts
    rows = []
    for i in shown:
        key = table.keys[i]
        cells = [key, *(f"{values[i]:.3f}" for values in (table.losses, table.confidence, table.variability))]
        cells += [names.get(int(classes[i]), str(classes[i])) for classes in (table.labels, table.predicted)]
        cells += [table.groups[i]] if has_groups else []
        cells += [table.texts.get(key, "")] if has_texts else []
        rows.append(tuple(cells))
    return Table(title, f"{about} The first {len(shown)} are listed." if more else about, tuple(head), tuple(rows))


def _class_names(loaded_run: LoadedRun) -> dict[int, str]:
    """The names of the classes in the model's configuration."""
    names = json_of(loaded_run.run, tags.MODEL_CONFIG).get("id2label")
    known = names.items() if isinstance(names, dict) else ()
    return {int(number): str(name)[:40] for number, name in known if str(number).isdecimal()}
