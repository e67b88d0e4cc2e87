"""What predictions look like: confusion matrix, curves of precision and recall, F1 by class, the worst texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from tbx_callbacks._model.names import unique
from tbx_callbacks.writers.summary_writer import NullSummaryWriter

if TYPE_CHECKING:
    from tbx_callbacks.integrations.base import Integration

logger = logging.getLogger(__name__)

_EACH = 20  # classes that have views of their own, and numbers in the matrix
_NAMED = 60  # classes whose names stand at the matrix
_IGNORED = -100  # the label that torch's losses leave out


def log_predictions(
    callback: Integration,
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

    With more than 20 classes the matrix has colours alone, in an image of a fixed size, and curves and F1 are those of
    the 20 classes with most samples; `<split>/f1/macro` is then the mean F1 of all classes that occur.

    Args:
        callback: a callback or loop of this package.
        logits: `[samples, classes]`, as the model gives them, of any dtype and device; softmax is taken here. Samples
            without a finite largest logit are left out, with a warning.
        labels: `[samples]`, class numbers; samples of label -100 are left out.
        names: of the classes; their numbers when left out. Names that would share a tag get `_2`, `_3` and so on.
        texts: `[samples]`, what was classified.
        split: first part of the tags.
        worst: how many texts.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: shapes do not fit, a label is no class, or no sample has a label.
    """
    scores, truth = _array(logits, "logits"), _array(labels, "labels")
    names = [str(name) for name in (names or range(scores.shape[-1] if scores.ndim else 0))]
    _check(scores, truth, names, texts)
    step, writer = callback.step, callback.writer
    kept = np.flatnonzero((truth != _IGNORED) & np.isfinite(scores.max(-1)))
    if len(kept) < (truth != _IGNORED).sum():
        logger.warning("%s: samples whose largest logit is NaN or Inf are left out of its views", split)
    if isinstance(writer, NullSummaryWriter) or not len(kept):
        return
    scores, truth = scores[kept], truth[kept].astype(np.int64)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    chosen = scores.argmax(-1)
    counts = _counts(truth, chosen, len(names))
    writer.add_figure(f"{split}/confusion_matrix", _confusion(counts, names), step)
    f1, occurs = _f1(counts)
    tags, places = unique(map(_tag, names)), list(range(len(names)))
    if len(names) > _EACH:
        tags = unique(["macro", *map(_tag, names)])[1:]
        places = np.argsort(-counts.sum(1), kind="stable")[:_EACH].tolist()
        writer.add_scalar(f"{split}/f1/macro", float(f1[occurs].mean()), step)
    for place in places:
        writer.add_scalar(f"{split}/f1/{tags[place]}", float(f1[place]), step)
        writer.add_pr_curve(f"{split}/precision_recall/{tags[place]}", truth == place, shares[:, place], step)
    if texts is not None:
        chosen_texts = [texts[place] for place in kept.tolist()]
        writer.add_text(f"{split}/worst", _worst(truth, chosen, shares, names, chosen_texts, worst), step)


def _array(given: Any, what: str) -> Any:
    """Numbers of any kind as float64 on the host."""
    if isinstance(given, Tensor):
        given = given.detach().cpu().double().numpy()
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(given).__name__
        raise ValueError(f"{what} must be one array or tensor, got {kind}; of several outputs pass one") from error


def _check(scores: Any, truth: Any, names: Sequence[str], texts: Sequence[str] | None) -> None:
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(
            f"logits must be [samples, classes] and labels [samples], got {scores.shape} and {truth.shape};"
            " flatten those of tokens"
        )
    if len(names) != scores.shape[1]:
        raise ValueError(f"names must name each of the {scores.shape[1]} classes, got {len(names)}")
    if texts is not None and len(texts) != len(truth):
        raise ValueError(f"texts must be one a sample, got {len(texts)} for {len(truth)}")
    labelled = truth[truth != _IGNORED]
    if not len(labelled):
        raise ValueError(f"labels must be classes of at least one sample, got none in {len(truth)}; skip such a call")
    wrong = labelled[~np.isin(labelled, np.arange(len(names)))]
    if len(wrong):
        most = len(names) - 1
        raise ValueError(
            f"labels must be class numbers from 0 to {most}, got {wrong[0]:g}; use {_IGNORED} to leave one out"
        )


def _counts(truth: Any, chosen: Any, classes: int) -> Any:
    """Samples by true and by chosen class."""
    return np.bincount(truth * classes + chosen, minlength=classes * classes).reshape(classes, classes)


def _confusion(counts: Any, names: Sequence[str]) -> Any:
    # A figure of its own: pyplot would keep it, and change what figures of the user's look like.
    from matplotlib.figure import Figure

    classes = len(names)
    side = 2 + 0.8 * classes if classes <= _EACH else 10.0
    figure = Figure(figsize=(side, side - 0.4), dpi=100, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="Predicted label", ylabel="True label")
    if classes <= _NAMED:
        short = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
        many = classes > _EACH
        axes.set_xticks(range(classes), short, fontsize=7 if many else 10, rotation=90 if many else 0)
        axes.set_yticks(range(classes), short, fontsize=7 if many else 10)
    for (row, column), count in np.ndenumerate(counts) if classes <= _EACH else ():
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{shares[row, column]:.0%}\n{count}", ha="center", va="center", color=colour)
    return figure


def _f1(counts: Any) -> tuple[Any, Any]:
    """By class: F1, and whether it occurs at all, as a true or as a chosen one. F1 is 0 where it does not."""
    found, both = counts.diagonal(), counts.sum(0) + counts.sum(1)
    return 2 * found / np.maximum(1, both), both > 0


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
    """A class's name as one part of a tag."""
    kept = (letter if letter.isascii() and (letter.isalnum() or letter in "_.-") else "_" for letter in name)
    return "".join(kept) or "_"
