"""What a run shows of its predictions: precision-recall curves and images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from tbx_callbacks.report.colours import DASHES
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.loaded_runs import LoadedRun

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
_MOST_IMAGES, _MOST_BYTES = 24, 1 << 20


@dataclass(frozen=True)
class Image:
    """The last image of a tag, as the address of its data."""

    run: str
    tag: str
    address: str


def curves(subjects: Sequence[LoadedRun]) -> dict[str, go.Figure]:
    """Precision over recall, for each run and tag."""
    traces = [
        go.Scatter(
            x=points[1],
            y=points[0],
            mode="lines",
            name=plain(tag if len(subjects) == 1 else f"{subject.name}: {tag}"),
            line={"color": subject.colour, "dash": DASHES[kind % len(DASHES)]},
            meta={"run": place},
        )
        for place, subject in enumerate(subjects)
        for kind, (tag, points) in enumerate(subject.run.curves.items())
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


def images(subjects: Sequence[LoadedRun]) -> list[Image]:
    """Images of known kinds and of moderate size."""
    found = [
        Image(subject.name, tag, f"data:image/{kind};base64,{base64.b64encode(data).decode()}")
        for subject in subjects
        for tag, data in subject.run.images.items()
        if len(data) <= _MOST_BYTES and (kind := _kind(data)) is not None
    ]
    return found[:_MOST_IMAGES]


def _kind(data: bytes) -> str | None:
    return next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
