"""Pairs the folders of training runs with those of their evaluations, and names the evaluations' tags as such.

Keras writes `train/` and `validation/` with the same tags in both; `SummaryWriter.add_scalars` writes `loss_train/` and
`loss_val/`; others write an evaluation below the training run.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping

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


class Roles:
    """The roles of the runs of a folder: trainings, and evaluations that belong to them.

    Args:
        folders: the runs' folders by name.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._words = {name: _word(name, folder, folders) for name, folder in folders.items()}
        self._trainings = {name: training_of(name, folders) for name, word in self._words.items() if word}

    def training(self, name: str) -> str:
        """Returns the training that a run of evaluations belongs to; the run itself if it belongs to none."""
        return self._trainings.get(name) or name

    def evaluations(self, name: str) -> list[str]:
        """Returns the runs of evaluations that belong to a training."""
        return [other for other, training in self._trainings.items() if training == name]

    def judged(self, name: str, run: Run, read: Callable[[str], Run | None]) -> Run:
        """Returns what the rules judge: evaluations with tags that say so, a training with its evaluations.

        Args:
            name: the run's name.
            run: the run.
            read: returns another run by its name; None if it cannot be read.
        """
        if word := self._words[name]:
            return as_evaluation(run, word)
        evaluations = [
            as_evaluation(evaluation, word)
            for other in self.evaluations(name)
            if (word := self._words[other]) and (evaluation := read(other)) is not None
        ]
        return with_evaluations(run, evaluations) if evaluations else run


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


def _word(name: str, folder: str, names: Mapping[str, str]) -> str | None:
    """Returns the word for the role of a run; the folder that was given tells it by its own name."""
    if name == ".":
        return evaluation_word(os.path.basename(os.path.abspath(folder)), ())
    return evaluation_word(name, names)


def _tag(tag: str, word: str) -> str:
    if EVAL_LOSS.matches(tag) or EVAL_ACCURACY.matches(tag):
        return tag
    return f"{word}/loss" if TRAIN_LOSS.matches(tag) else f"{word}/{tag}"


def _base(name: str) -> str:
    return name.rpartition("/")[2]
