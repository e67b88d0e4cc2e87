"""Shows the predictions that a run logged: precision-recall curves, confusion matrices with wrong texts, images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from tbx_callbacks.report.colours import DASHES, RUNS
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.plain_figure import plain_figure
from tbx_callbacks.report.tables import MAX_TEXT
from tbx_callbacks.report.text_tables import TextTable, blocks
from tbx_callbacks.tags import CALIBRATION

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
_MAX_IMAGES, _MAX_BYTES = 24, 1 << 20
CONFUSION, WORST = "confusion_matrix", "worst"


@dataclass(frozen=True)
class Image:
    """The last image of a tag, as a data URL (`address`)."""

    run: str
    tag: str
    address: str


@dataclass(frozen=True)
class PredictionView:
    """The confusion matrix of an evaluation, beside its wrong predictions; `texts` are tables and other text."""

    run: str
    split: str
    images: tuple[Image, ...]
    texts: tuple[TextTable | str, ...] = ()


def curves(loaded_runs: Sequence[LoadedRun]) -> dict[str, go.Figure]:
    """Draws precision over recall, for each run and tag."""
    single = len(loaded_runs) == 1
    traces = [
        go.Scatter(
            x=points[1],
            y=points[0],
            mode="lines",
            name=plain(_short(tag) if single else f"{loaded_run.name}: {_short(tag)}"),
            line={
                "color": RUNS[kind % len(RUNS)] if single else loaded_run.colour,
                "dash": DASHES[(kind // len(RUNS) if single else kind) % len(DASHES)],
            },
            marker={"symbol": loaded_run.symbol},
            meta={"run": index, "label": plain(_short(tag))},
        )
        for index, loaded_run in enumerate(loaded_runs)
        for kind, (tag, points) in enumerate(loaded_run.run.curves.items())
    ]
    if not traces:
        return {}
    figure = plain_figure(traces).update_layout(
        title="Precision and recall",
        xaxis={"title": "recall", "range": [0, 1.01]},
        yaxis={"title": "precision", "range": [0, 1.01]},
        showlegend=len(traces) > 1,
        meta={"kind": "curve", "about": ""},
    )
    return {"precision_recall": figure}


def _short(tag: str) -> str:
    """`eval negative` instead of `eval/precision_recall/negative`."""
    return tag.replace("/precision_recall/", " ", 1)


def views(loaded_runs: Sequence[LoadedRun]) -> tuple[PredictionView, ...]:
    """The confusion matrices of supported formats, each with its reliability diagram and its wrong predictions."""
    found = []
    for loaded_run in loaded_runs:
        for tag, split in _splits(loaded_run).items():
            images = [_image(loaded_run, name) for name in (tag, *_beside(loaded_run, split))]
            text = loaded_run.run.texts.get(f"{split}{WORST}")
            texts = tuple(blocks(text.values[-1][:MAX_TEXT])) if text is not None else ()
            shown = tuple(image for image in images if image is not None)
            found.append(PredictionView(loaded_run.name, split.rstrip("/"), shown, texts))
    return tuple(found[:_MAX_IMAGES])


def shown_in_views(loaded_run: LoadedRun) -> frozenset[str]:
    """The tags of images and texts that `views` shows."""
    splits = _splits(loaded_run)
    return frozenset(splits).union(*(_beside(loaded_run, split) for split in splits.values()))


def _splits(loaded_run: LoadedRun) -> dict[str, str]:
    """The tags of the confusion matrices, with the part before their name."""
    tags = [tag for tag in loaded_run.run.images if tag.rpartition("/")[2] == CONFUSION]
    return {tag: tag.removesuffix(CONFUSION) for tag in tags if _image(loaded_run, tag) is not None}


def _beside(loaded_run: LoadedRun, split: str) -> list[str]:
    """The tags of the reliability diagram and of the wrong predictions of a split, as far as they exist."""
    run = loaded_run.run
    image, text = f"{split}{CALIBRATION}/reliability", f"{split}{WORST}"
    return [image] * (_image(loaded_run, image) is not None) + [text] * (text in run.texts)


def images(loaded_runs: Sequence[LoadedRun]) -> list[Image]:
    """The other logged images of supported formats, up to 1 MiB each; at most 24."""
    all_images = [
        image
        for loaded_run in loaded_runs
        for shown in (shown_in_views(loaded_run),)
        for tag in loaded_run.run.images
        if tag not in shown and (image := _image(loaded_run, tag)) is not None
    ]
    return all_images[:_MAX_IMAGES]


def _image(loaded_run: LoadedRun, tag: str) -> Image | None:
    data = loaded_run.run.images.get(tag, b"")
    kind = _kind(data)
    if kind is None or len(data) > _MAX_BYTES:
        return None
    return Image(loaded_run.name, tag, f"data:image/{kind};base64,{base64.b64encode(data).decode()}")


def _kind(data: bytes) -> str | None:
    return next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
