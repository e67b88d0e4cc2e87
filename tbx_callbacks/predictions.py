"""Logs views of a classifier's predictions: confusion matrix, precision, recall, F1, calibration, worst texts."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from tbx_callbacks._extensions import OUTSIDE_ERRORS
from tbx_callbacks._model.names import unique
from tbx_callbacks._stats import calibration
from tbx_callbacks._text import reason, short
from tbx_callbacks.tags import CALIBRATION, clean
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter

logger = logging.getLogger(__name__)

_MAX_CLASSES = 20  # classes with a curve and an F1 score, and with numbers in the matrix
_MAX_NAMED_CLASSES = 60  # classes whose names are shown beside the matrix
_IGNORE_INDEX = -100  # the default ignore_index of torch's losses
_ROUNDING = 0.01  # of the sum of probabilities: bfloat16 is off by up to 0.004

_got_probabilities: weakref.WeakSet[SummaryWriter] = weakref.WeakSet()
"""Writers of the runs that have the warning about probabilities."""


class HasRun(Protocol):
    """A callback, a loop or a session: it writes a run and knows its step."""

    @property
    def step(self) -> int:
        """Number of finished optimizer steps."""
        ...

    @property
    def writer(self) -> SummaryWriter | NullSummaryWriter:
        """The run's writer."""
        ...


def log_predictions(
    callback: HasRun,
    logits: Any,
    labels: Any,
    *,
    names: Iterable[object] | Mapping[int, str] | None = None,
    texts: Iterable[object] | None = None,
    split: str = "eval",
    worst: int = 20,
) -> None:
    """Logs views of a classifier's predictions at the callback's step; does nothing on ranks that do not write.

    Tags: `<split>/confusion_matrix` (image: rows are true classes, with each row's shares and counts),
    `<split>/precision_recall/<class>` (curve, one class against the others), `<split>/f1/<class>`, and `<split>/worst`
    (text: the most confident wrong predictions, if texts are given).

    `<split>/calibration/<number>` tells whether the probabilities can be believed. `ece` is the expected calibration
    error, the mean gap between confidence and accuracy over 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599),
    and `nll` the mean negative log-likelihood. `temperature` is the number by which to divide the logits for the
    smallest `nll`, and `ece_at_temperature` and `nll_at_temperature` are the results. The temperature is fitted on
    these same rows, so they are the best that it can do, and not what it does on others. The three are left out where
    no temperature between 0.01 and 100 is best, as with predictions that are all right. The image
    `<split>/calibration/reliability` shows accuracy by confidence, before and after.

    With more than 20 classes the matrix shows colours only, in an image of a fixed size. Curves and F1 are then limited
    to the 20 classes with the most samples, and `<split>/f1/macro` is the mean F1 of all classes that occur.

    A view that cannot be drawn is left out with a warning, and the training goes on.

    Args:
        callback: a callback, loop or session of this package.
        logits: `[samples, classes]`, raw outputs of any dtype and device; softmax is applied here. For a binary model
            with one output `x`, pass the two columns `[0, x]`. Samples without a finite largest logit are left out,
            with a warning. Rows that are probabilities already get a warning: their calibration would be wrong.
        labels: `[samples]`, class numbers; samples with label -100 are left out.
        names: class names in the order of the classes, or a mapping from class number to name such as
            `model.config.id2label`; default: the class numbers. Names that would share a tag get the suffixes `_2`,
            `_3` and so on.
        texts: `[samples]`, the classified texts in the order of the samples, whatever their index; None is shown as
            an empty text.
        split: first part of the tags.
        worst: number of texts.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: shapes do not match, a label is not a class, or no sample has a label.
    """
    scores, targets = _array(logits, "logits"), _array(labels, "labels")
    _check_shapes(scores, targets)
    class_names = _class_names(names, scores.shape[1])
    all_texts = None if texts is None else _sample_texts(texts, len(targets))
    _check_labels(targets, scores.shape[1])
    step, writer = callback.step, callback.writer
    indices = np.flatnonzero((targets != _IGNORE_INDEX) & np.isfinite(scores.max(-1)))
    if len(indices) < (targets != _IGNORE_INDEX).sum():
        logger.warning("%s: samples whose largest logit is NaN or Inf are left out of the prediction views", split)
    if isinstance(writer, NullSummaryWriter) or not len(indices):
        return
    import matplotlib.figure  # noqa: F401  # outside of what is guarded below: its absence is an error

    scores, targets = scores[indices], targets[indices].astype(np.int64)
    _warn_of_probabilities(writer, scores, split)
    probabilities = np.exp(scores - scores.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    predicted = scores.argmax(-1)
    counts = _confusion_counts(targets, predicted, len(class_names))
    with _guarded(f"{split}/confusion_matrix", step):
        writer.add_figure(f"{split}/confusion_matrix", _confusion(counts, class_names), step)
    with _guarded(f"{split}/{CALIBRATION}", step):
        _log_calibration(writer, scores, targets, split, step)
    with _guarded(f"{split}/f1", step):
        _log_by_class(writer, counts, targets, probabilities, class_names, split, step)
    if all_texts is not None:
        with _guarded(f"{split}/worst", step):
            kept_texts = [all_texts[i] for i in indices.tolist()]
            table = _worst(targets, predicted, probabilities, class_names, kept_texts, worst)
            writer.add_text(f"{split}/worst", table, step)


@contextlib.contextmanager
def _guarded(view: str, step: int) -> Iterator[None]:
    """Logs an error while a view is drawn and written, which must not end the training."""
    try:
        yield
    except OUTSIDE_ERRORS as error:
        logger.warning("%s is left out at step %d: %s", view, step, reason(error))


def _array(value: Any, what: str) -> Any:
    """Converts numbers of any kind to float64 on the host."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        text = _first_text(value)
        if text is not None:
            message = f"{what} must be numbers, got {short(text)}; pass the place of each class in `names`"
        else:
            kind = type(value).__name__
            message = f"{what} must be one array or tensor, got {kind}; if the model has several outputs, pass one"
        raise ValueError(message) from error


def _first_text(values: Any) -> str | None:
    with contextlib.suppress(TypeError):  # not iterable
        return next((str(each) for each in values if isinstance(each, (str, bytes))), None)
    return None


def _check_shapes(scores: Any, targets: Any) -> None:
    if scores.ndim == 2 and scores.shape[1] > 1 and targets.shape == scores.shape[:1]:
        return
    if scores.shape[1:] in ((), (1,)):
        remedy = (
            "of a binary model with one output pass the two columns [0, x]: x = logits.reshape(-1);"
            " np.stack([0 * x, x], -1), or torch.stack for tensors"
        )
    elif scores.ndim > 2:
        remedy = "flatten token-level logits and labels; if the model has several outputs, pass one"
    elif scores.ndim == 2 and targets.shape == (len(scores), 1):
        remedy = "flatten labels to one dimension"
    elif targets.shape == scores.shape and ((targets == 1).sum(-1) == 1).all() and (targets != 0).sum() == len(targets):
        remedy = "of one-hot labels pass labels.argmax(-1)"
    elif targets.shape == scores.shape:
        remedy = "multi-label targets have no single class: call it for each label with the two columns [0, logit]"
    else:
        remedy = "pass one row of logits and one class number for each sample"
    raise ValueError(
        f"logits must be [samples, classes] and labels [samples], got {scores.shape} and {targets.shape}; {remedy}"
    )


def _class_names(names: Any, classes: int) -> list[str]:
    """The names in the order of the classes."""
    if names is None:
        return list(map(str, range(classes)))
    if isinstance(names, Mapping):
        by_number = {str(number): str(name) for number, name in names.items()}
        numbers = list(map(str, range(classes)))
        if by_number.keys() != set(numbers):
            got = f"the keys {short(list(names))}"
            raise ValueError(f"names must map the class numbers 0 to {classes - 1} to names, got {got}; pass id2label")
        return [by_number[number] for number in numbers]
    listed = [str(name) for name in _listed(names, "names", "classes")]
    if len(listed) != classes:
        raise ValueError(f"names must name each of the {classes} classes, got {len(listed)}")
    return listed


def _sample_texts(texts: Any, samples: int) -> list[object]:
    listed = _listed(texts, "texts", "samples")
    if len(listed) != samples:
        raise ValueError(f"texts must have one entry per sample, got {len(listed)} for {samples}")
    return listed


def _listed(values: Any, what: str, order: str) -> list[object]:
    """The values by position: an index of their own, as that of a pandas Series, does not count."""
    if isinstance(values, Tensor):
        values = values.tolist()
    is_listed = isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping, Set))
    if is_listed and getattr(values, "ndim", 1) != 0:
        return list(values)
    if hasattr(values, "__getitem__") and hasattr(values, "__len__") and not isinstance(values, Iterable):
        return [values[i] for i in range(len(values))]
    raise ValueError(f"{what} must be a sequence in the order of the {order}, got {short(values)}; pass a list")


def _check_labels(targets: Any, classes: int) -> None:
    labelled = targets[targets != _IGNORE_INDEX]
    if not len(labelled):
        raise ValueError(f"labels must be classes of at least one sample, got none in {len(targets)}; skip this call")
    wrong = labelled[~np.isin(labelled, np.arange(classes))]
    if len(wrong):
        most = classes - 1
        raise ValueError(
            f"labels must be class numbers from 0 to {most}, got {wrong[0]:g}; use {_IGNORE_INDEX} to leave one out"
        )


def _warn_of_probabilities(writer: SummaryWriter, scores: Any, split: str) -> None:
    """Warns once in a run if all rows are probabilities: the softmax of them is another distribution."""
    if writer in _got_probabilities or not ((scores >= 0).all() and (abs(scores.sum(-1) - 1) <= _ROUNDING).all()):
        return
    _got_probabilities.add(writer)
    logger.warning(
        "%s/%s and %s/worst are wrong: logits are probabilities already; pass the raw logits or the log-probabilities",
        split,
        CALIBRATION,
        split,
    )


def _confusion_counts(targets: Any, predicted: Any, classes: int) -> Any:
    """Number of samples by true and by predicted class."""
    return np.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def _confusion(counts: Any, names: Sequence[str]) -> Any:
    # Not pyplot: it would keep the figure, and change the style of user figures.
    from matplotlib.figure import Figure

    classes = len(names)
    side = 2 + 0.8 * classes if classes <= _MAX_CLASSES else 10.0
    figure = Figure(figsize=(side, side - 0.4), dpi=100, layout="constrained")
    axes = figure.subplots()
    row_shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(row_shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="Predicted label", ylabel="True label")
    if classes <= _MAX_NAMED_CLASSES:
        short = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
        many = classes > _MAX_CLASSES
        style: dict[str, Any] = {"fontsize": 7 if many else 10, "parse_math": False}  # a name may hold dollar signs
        axes.set_xticks(range(classes), short, rotation=90 if many else 0, **style)
        axes.set_yticks(range(classes), short, **style)
    for (row, column), count in np.ndenumerate(counts) if classes <= _MAX_CLASSES else ():
        colour = "white" if row_shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{row_shares[row, column]:.0%}\n{count}", ha="center", va="center", color=colour)
    return figure


def _log_by_class(
    writer: SummaryWriter, counts: Any, targets: Any, probabilities: Any, names: Sequence[str], split: str, step: int
) -> None:
    f1, occurs = _f1(counts)
    tags, selected = unique(map(_tag, names)), list(range(len(names)))
    if len(names) > _MAX_CLASSES:
        tags = unique(["macro", *map(_tag, names)])[1:]
        selected = np.argsort(-counts.sum(1), kind="stable")[:_MAX_CLASSES].tolist()
        writer.add_scalar(f"{split}/f1/macro", float(f1[occurs].mean()), step)
    for i in selected:
        writer.add_scalar(f"{split}/f1/{tags[i]}", float(f1[i]), step)
        writer.add_pr_curve(f"{split}/precision_recall/{tags[i]}", targets == i, probabilities[:, i], step)


def _log_calibration(writer: SummaryWriter, scores: Any, targets: Any, split: str, step: int) -> None:
    before = calibration.reliability(scores, targets)
    numbers = {"ece": before.error, "nll": calibration.log_loss(scores, targets)}
    temperature = calibration.best_temperature(scores, targets)
    after = None
    if temperature is not None:
        after = calibration.reliability(scores / temperature, targets)
        numbers |= {
            "temperature": temperature,
            "ece_at_temperature": after.error,
            "nll_at_temperature": calibration.log_loss(scores / temperature, targets),
        }
    for name, number in numbers.items():
        if np.isfinite(number):  # a class of logit -inf has no finite likelihood
            writer.add_scalar(f"{split}/{CALIBRATION}/{name}", number, step)
    writer.add_figure(f"{split}/{CALIBRATION}/reliability", _reliability(before, after, temperature), step)


def _reliability(
    before: calibration.Reliability, after: calibration.Reliability | None, temperature: float | None
) -> Any:
    """Draws accuracy over confidence by bin, and the number of rows in each bin below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 6.2), dpi=100, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    edges, width = np.linspace(0, 1, len(before.counts) + 1)[:-1], 1 / len(before.counts)
    axes.bar(edges, before.accuracy, width, align="edge", color="#9ecae1", edgecolor="#3182bd", label="accuracy")
    axes.plot([0, 1], [0, 1], color="#555555", linestyle="--", label="as its confidence says")
    axes.plot(before.confidence, before.accuracy, "o", color="#08519c", markersize=4, label="bins, as they are")
    title = f"Expected calibration error {before.error:.4f}"
    if after is not None:
        axes.plot(
            after.confidence, after.accuracy, "s", color="#e6550d", markersize=4, label="bins, at the temperature"
        )
        title += f"\nat temperature {temperature:.3g}, fitted on these rows: {after.error:.4f}"
    else:
        low, high = calibration.TEMPERATURES
        title += f"\nno temperature between {low:g} and {high:g} fits best"
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
    axes.set_title(title, fontsize=10)
    axes.legend(loc="upper left", fontsize=8)
    below.bar(edges, before.counts, width, align="edge", color="#bdbdbd", edgecolor="#636363")
    below.set(xlabel="Confidence (probability of the predicted class)", ylabel="Rows")
    return figure


def _f1(counts: Any) -> tuple[Any, Any]:
    """F1 by class (0 for an absent class), and whether the class occurs at all, as a true or a predicted one."""
    hits, totals = counts.diagonal(), counts.sum(0) + counts.sum(1)
    return 2 * hits / np.maximum(1, totals), totals > 0


def _worst(
    targets: Any, predicted: Any, probabilities: Any, names: Sequence[str], texts: Sequence[object], number: int
) -> str:
    wrong = np.flatnonzero(predicted != targets)
    order = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][:number]
    lines = ["| predicted | probability | true | text |", "|---|---|---|---|"]
    for i in order:
        label, true = names[predicted[i]], names[targets[i]]
        lines.append(f"| {_cell(label)} | {probabilities[i, predicted[i]]:.3f} | {_cell(true)} | {_cell(texts[i])} |")
    return "\n".join(lines) if len(order) else "no wrong predictions"


def _cell(text: object) -> str:
    """Escapes text for a cell of a Markdown table, on one line."""
    flat = "" if text is None else " ".join(str(text).split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")


def _tag(name: str) -> str:
    """Converts a class name to one part of a tag."""
    return clean(name).replace("/", "_") or "_"
