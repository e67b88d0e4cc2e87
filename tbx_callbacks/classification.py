"""What predictions look like: confusion matrix, curves of precision and recall, F1 by class, the worst texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tbx_callbacks.adapters.base import Adapter


def log_predictions(
    callback: Adapter,
    logits: Any,
    labels: Any,
    *,
    names: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    split: str = "eval",
    worst: int = 20,
) -> None:
    """Writes views of a classifier's predictions, at the callback's step; nothing on ranks that do not write.

    Tags: `<split>/confusion_matrix` (image: rows are true classes, each row's shares and counts),
    `<split>/precision_recall/<class>` (curve, one class against the others), `<split>/f1/<class>`, and
    `<split>/worst` (text: the most confidently wrong ones, when texts are given).

    Args:
        callback: a callback or loop of this package.
        logits: `[samples, classes]`, as the model gives them; softmax is taken here.
        labels: `[samples]`, class numbers.
        names: of the classes; their numbers when left out.
        texts: `[samples]`, what was classified.
        split: first part of the tags.
        worst: how many texts.

    Raises:
        ImportError: scikit-learn or matplotlib is missing.
        ValueError: shapes do not fit.
    """
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    names = [str(name) for name in (names or range(scores.shape[-1]))]
    _check(scores, truth, names, texts)
    step, writer = callback.step, callback.writer
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    chosen = scores.argmax(-1)
    writer.add_figure(f"{split}/confusion_matrix", _confusion(truth, chosen, names), step)
    for place, (name, f1) in enumerate(zip(names, _f1(truth, chosen, len(names)), strict=True)):
        tag = _tag(name)
        writer.add_scalar(f"{split}/f1/{tag}", f1, step)
        writer.add_pr_curve(f"{split}/precision_recall/{tag}", truth == place, shares[:, place], step)
    if texts is not None:
        writer.add_text(f"{split}/worst", _worst(truth, chosen, shares, names, texts, worst), step)


def _check(scores: Any, truth: Any, names: Sequence[str], texts: Sequence[str] | None) -> None:
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(
            f"logits must be [samples, classes] and labels [samples], got {scores.shape} and {truth.shape}"
        )
    if len(names) != scores.shape[1]:
        raise ValueError(f"names must name each of the {scores.shape[1]} classes, got {len(names)}")
    if texts is not None and len(texts) != len(truth):
        raise ValueError(f"texts must be one a sample, got {len(texts)} for {len(truth)}")


def _confusion(truth: Any, chosen: Any, names: Sequence[str]) -> Any:
    # A figure of its own: pyplot would keep it, and change what figures of the user's look like.
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

    counts = confusion_matrix(truth, chosen, labels=range(len(names)))
    figure = Figure(figsize=(2 + 0.8 * len(names), 1.6 + 0.8 * len(names)), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    shown = ConfusionMatrixDisplay(shares, display_labels=names)
    shown.plot(ax=axes, cmap="Blues", colorbar=False, include_values=False, im_kw={"vmin": 0, "vmax": 1})
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{shares[row, column]:.0%}\n{count}", ha="center", va="center", color=colour)
    return figure


def _f1(truth: Any, chosen: Any, classes: int) -> list[float]:
    from sklearn.metrics import f1_score

    found = f1_score(truth, chosen, labels=range(classes), average=None, zero_division=0)
    return [float(score) for score in found]


def _worst(truth: Any, chosen: Any, shares: Any, names: Sequence[str], texts: Sequence[str], number: int) -> str:
    wrong = np.flatnonzero(chosen != truth)
    order = wrong[np.argsort(-shares[wrong, chosen[wrong]])][:number]
    lines = ["| said | with | true | text |", "|---|---|---|---|"]
    for place in order:
        said, true = names[chosen[place]], names[truth[place]]
        lines.append(f"| {_cell(said)} | {shares[place, chosen[place]]:.3f} | {_cell(true)} | {_cell(texts[place])} |")
    return "\n".join(lines) if len(order) else "none is wrong"


def _cell(text: str) -> str:
    """Text as a cell of a Markdown table: inert, on one line."""
    flat = " ".join(text.split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")


def _tag(name: str) -> str:
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_.-") else "_" for letter in name)
