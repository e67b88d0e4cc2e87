"""Reports the results of the sentiment recipes: scores, prediction views, findings and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from recipe_run import show_run
from rich.table import Table

from tbx_callbacks import log_predictions
from tbx_callbacks.cli.terminal import console

Scores = Mapping[str, float]
SHOWN = ("loss", "accuracy", "f1")


@dataclass(frozen=True)
class Outcome:
    """Results of a training. Scores have `loss`, `accuracy` and `f1`; those of dev are the best by accuracy."""

    steps: int
    log_dir: str
    dev: Scores | None
    test: Scores | None


def scores(logits: Any, labels: Any) -> dict[str, float]:
    """Accuracy, and F1 of the second class (two classes) or the mean F1 over classes (more).

    Args:
        logits: `[samples, classes]`.
        labels: `[samples]`.
    """
    predicted, labels, classes = np.argmax(logits, axis=-1), np.asarray(labels), logits.shape[-1]
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    answers = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    # F1 = 2 TP / (2 TP + FP + FN); a class that is neither there nor predicted has none
    f1 = np.divide(2 * hits, answers, out=np.zeros(classes), where=answers > 0)
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "f1": float(f1[1] if classes == 2 else f1[answers > 0].mean()),
    }


def evaluation_line(step: int, epoch: float, dev: Scores) -> str:
    """The line that is printed for an evaluation."""
    return f"step {step:>5}  epoch {epoch:.2f}  dev: " + "  ".join(f"{name} {dev[name]:.4f}" for name in SHOWN)


def show_predictions(callback: Any, rows: Dataset, logits: Any, labels: Any, split: str) -> None:
    """Logs the confusion matrix, precision and recall, F1 by class, and the most confident wrong sentences.

    Args:
        callback: a callback or loop of tbx_callbacks.
        rows: the split's sentences and labels.
        logits: `[samples, classes]`, in the order of the rows.
        labels: `[samples]`.
        split: first part of the tags: `eval` or `test`.
    """
    names = rows.features["label"].names
    log_predictions(callback, logits, labels, names=names, texts=rows["sentence"], split=split)


def report(outcome: Outcome, seconds: float) -> None:
    """Prints the results, the worst findings, the path of the report, the log directory and the command to view it."""
    table = Table("split", "loss", "accuracy", "F1", title=f"results after {outcome.steps} steps, {seconds:.0f} s")
    for name, entry in (("dev (best)", outcome.dev), ("test", outcome.test)):
        if entry is not None:
            table.add_row(name, *(f"{entry[key]:.4f}" for key in SHOWN))
    console.print(table)
    show_run(outcome.log_dir)
