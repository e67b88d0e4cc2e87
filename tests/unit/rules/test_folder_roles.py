"""Tests the roles of folders: which one holds the evaluations of which training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from tbx_callbacks.rules.diagnose import DiagnosedRun, diagnose_folder
from tbx_callbacks.rules.folder_roles import evaluation_word, training_of

DOWN = np.geomspace(0.7, 0.1, 40)
UP = np.r_[DOWN[:15], np.linspace(DOWN[15], 2, 25)]


def written(folder: Path, **scalars: Any) -> None:
    with SummaryWriter(str(folder)) as writer:
        for tag, values in scalars.items():
            for step, value in enumerate(values):
                writer.add_scalar(tag.replace("__", "/"), value, step)


def judged(folder: Path) -> Mapping[str, DiagnosedRun]:
    return {one.name: one for one in diagnose_folder(folder)}


def found(one: DiagnosedRun) -> set[str]:
    return {finding.id for finding in one.diagnosis.findings if finding.severity != "note"}


@pytest.mark.parametrize(
    ("train", "evaluation"),
    [
        ("train", "validation"),
        ("train", "val"),
        ("training", "eval"),
        ("Train", "Validation"),
        ("train", "test"),
        ("exp/train", "exp/dev"),
        ("loss_train", "loss_val"),
        ("loss_training", "loss_valid"),
    ],
)
@pytest.mark.parametrize("tag", ["epoch_loss", "loss"])
def test_folder_of_validation_judged_with_training(tmp_path: Path, train: str, evaluation: str, tag: str) -> None:
    written(tmp_path / train, **{tag: DOWN})
    written(tmp_path / evaluation, **{tag: UP})
    runs = judged(tmp_path)
    assert found(runs[train]) == {"overfitting"}
    assert found(runs[evaluation]) == set()
    assert runs[evaluation].diagnosis.verdict.kind == "too_little"
    assert list(runs[evaluation].run.scalars) == [tag]


def test_add_scalars_folders_judged_together(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(40):
            writer.add_scalars("loss", {"train": DOWN[step], "val": UP[step]}, step)
    assert [found(one) for one in judged(tmp_path).values()] == [{"overfitting"}, set()]


def test_evaluation_below_training_judged_with_it(tmp_path: Path) -> None:
    written(tmp_path, train__loss=DOWN)
    written(tmp_path / "eval", loss=UP)
    runs = judged(tmp_path)
    assert found(runs["."]) == {"overfitting"}
    assert found(runs["eval"]) == set()


def test_validation_folder_given_alone_no_training(tmp_path: Path) -> None:
    written(tmp_path / "validation", epoch_loss=UP)
    (only,) = judged(tmp_path / "validation").values()
    assert found(only) == set()
    assert only.diagnosis.verdict.kind == "too_little"


@pytest.mark.parametrize("name", ["test", "dev", "eval_lr_1", "val"])
def test_training_with_name_of_evaluation_is_judged(tmp_path: Path, name: str) -> None:
    written(tmp_path / name, train__loss=UP, train__learning_rate=np.full(40, 1e-3))
    assert "divergence" in found(judged(tmp_path)[name])


def test_ambiguous_name_needs_training_beside_it() -> None:
    assert evaluation_word("test", ["test"]) is None
    assert evaluation_word("test", ["test", "train"]) == "test"
    assert evaluation_word("latest", ["latest", "train"]) is None
    assert training_of("a/val", ["a/train", "b/train", "a/val"]) == "a/train"
    assert training_of("loss_val", ["acc_train", "loss_train", "loss_val"]) == "loss_train"
