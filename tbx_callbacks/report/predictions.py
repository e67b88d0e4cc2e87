"""Draws the predictions that a run logged: precision-recall curves and images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from tbx_callbacks.report.colours import DASHES
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.loaded_runs import LoadedRun

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
_MAX_IMAGES, _MAX_BYTES = 24, 1 << 20


@dataclass(frozen=True)
class Image:
    """The last image of a tag, as a data URL (`address`)."""

    run: str
    tag: str
    address: str


def curves(loaded_runs: Sequence[LoadedRun]) -> dict[str, go.Figure]:
    """Draws precision over recall, for each run and tag."""
    traces = [
        go.Scatter(
            x=points[1],
            y=points[0],
            mode="lines",
            name=plain(tag if len(loaded_runs) == 1 else f"{loaded_run.name}: {tag}"),
            line={"color": loaded_run.colour, "dash": DASHES[kind % len(DASHES)]},
            meta={"run": index},
        )
        for index, loaded_run in enumerate(loaded_runs)
        for kind, (tag, points) in enumerate(loaded_run.run.curves.items())
    ]
    if not traces:
        return {}
    figure = go.Figure(traces).update_layout(
        template="plotly_white",
        title="Precision and recall",
        xaxis={"title": "recall", "range": [0, 1.01]},
        yaxis={"title": "precision", "range": [0, 1.01]},
        showlegend=len(traces) > 1,
        meta={"kind": "curve", "about": ""},
    )
    return {"precision_recall": figure}


def images(loaded_runs: Sequence[LoadedRun]) -> list[Image]:
    """The logged images of supported formats, up to 1 MiB each; at most 24."""
    all_images = [
        Image(loaded_run.name, tag, f"data:image/{kind};base64,{base64.b64encode(data).decode()}")
        for loaded_run in loaded_runs
        for tag, data in loaded_run.run.images.items()
        if len(data) <= _MAX_BYTES and (kind := _kind(data)) is not None
    ]
    return all_images[:_MAX_IMAGES]


def _kind(data: bytes) -> str | None:
    return next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
