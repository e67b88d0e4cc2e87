"""Pairs the folders of training runs with those of their evaluations, and names the evaluations' tags as such.

Keras writes `train/` and `validation/` with the same tags in both; `SummaryWriter.add_scalars` writes `loss_train/` and
`loss_val/`; others write an evaluation below the training run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable

from tbx_callbacks.rules.required_series import (
    EVAL_ACCURACY,
    EVAL_LOSS,
    EVALUATION_WORD,
    GRAD_NORM,
    LEARNING_RATE,
    TRAIN_LOSS,
)
from tbx_callbacks.runs.series import Run, Series

_EVALUATION = re.compile(rf"(?:^|(?<=[_.-]))({EVALUATION_WORD})(?=$|[_.-])", re.IGNORECASE)
_TRAINING = re.compile(r"(?:^|(?<=[_.-]))train(?:ing)?(?=$|[_.-])", re.IGNORECASE)
_AMBIGUOUS = re.compile("dev|test(ing)?", re.IGNORECASE)  # also names of runs: of a trial, or under development


def evaluation_word(name: str, names: Collection[str]) -> str | None:
    """Returns the word by which a run's name tells that the folder holds evaluations; None if it does not.

    Args:
        name: the run's folder, relative to the one that is read.
        names: the names of all runs.
    """
    found = _EVALUATION.search(_base(name))
    if found is None or _TRAINING.search(_base(name)):
        return None
    needs_training = found[1] != _base(name) or _AMBIGUOUS.fullmatch(found[1])  # else it may be the name of a training
    return None if needs_training and training_of(name, names) is None else found[1].lower()


def training_of(name: str, names: Collection[str]) -> str | None:
    """Returns the name of the training run that a folder of evaluations belongs to; None if there is none."""
    parent, base = name.rpartition("/")[0], _base(name)
    key = _EVALUATION.sub("*", base, count=1)
    for other in names:
        is_beside = other.rpartition("/")[0] == parent and other != name
        if is_beside and _TRAINING.search(_base(other)) and _TRAINING.sub("*", _base(other), count=1) == key:
            return other
    above = parent or "."
    return above if above in names and above != name and not _EVALUATION.search(_base(above)) else None


def as_evaluation(run: Run, word: str) -> Run:
    """Returns the run of a folder of evaluations with tags that say so; a run that trained is returned unchanged."""
    if LEARNING_RATE.all(run) or GRAD_NORM.all(run) or any(_TRAINING.search(tag.split("/")[0]) for tag in run.scalars):
        return run
    return dataclasses.replace(run, scalars={_tag(tag, word): series for tag, series in run.scalars.items()})


def with_evaluations(run: Run, evaluations: Iterable[Run]) -> Run:
    """Returns a training run together with its evaluations; its own evaluations come first."""
    scalars: dict[str, Series] = dict(run.scalars)
    for evaluation in evaluations:
        for tag, series in evaluation.scalars.items():
            if EVAL_LOSS.matches(tag) or EVAL_ACCURACY.matches(tag):
                scalars.setdefault(tag, series)
    return dataclasses.replace(run, scalars=scalars)


def _tag(tag: str, word: str) -> str:
    if EVAL_LOSS.matches(tag) or EVAL_ACCURACY.matches(tag):
        return tag
    return f"{word}/loss" if TRAIN_LOSS.matches(tag) else f"{word}/{tag}"


def _base(name: str) -> str:
    return name.rpartition("/")[2]
