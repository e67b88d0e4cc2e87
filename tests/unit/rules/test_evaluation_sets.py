"""Tests that each evaluation set is found under its own name, and no training loss among them."""

from __future__ import annotations

import numpy as np
import pytest

from tbx_callbacks.rules import diagnose
from tbx_callbacks.rules.evaluation_sets import evaluation_sets
from tbx_callbacks.rules.required_series import EVAL_LOSS, TRAIN_LOSS, evaluation_set
from tests.helpers.rule_cases import FALLING, findings_of, flat, run_of, series

RISING = series([0.6, 0.4, 0.3, 0.45, 0.6], every=100)
GOOD = series([0.6, 0.4, 0.3, 0.25, 0.2], every=100)

NAMES = {
    "eval/loss": "",
    "val_loss": "",
    "valid/loss": "",
    "Loss/val": "",
    "Loss/validation": "",
    "loss_val": "",
    "validation-loss": "",
    "val_loss_epoch": "",
    "epoch_val_loss": "",
    "validation/epoch_loss": "",
    "validation/evaluation_loss_vs_iterations": "",
    "val_loss/dataloader_idx_0": "0",
    "val_loss/dataloader_idx_1": "1",
    "eval/mnli_loss": "mnli",
    "eval/mnli/loss": "mnli",
    "eval/mnli_matched_loss": "mnli_matched",
    "eval_loss/mnli": "mnli",
    "Loss/eval/mnli": "mnli",
    "test_loss": "test",
}


@pytest.mark.parametrize("tag", NAMES)
def test_evaluation_set_named_by_tag(tag: str) -> None:
    assert EVAL_LOSS.matches(tag)
    assert not TRAIN_LOSS.matches(tag)
    assert evaluation_set(EVAL_LOSS, tag) == NAMES[tag]


@pytest.mark.parametrize(
    "tag",
    [
        "train/loss",
        "loss",
        "best/val_loss",
        "eval/kl_loss",
        "val/box_loss",
        "eval/train_loss",
        "eval/runtime",
        "closs_val",
    ],
)
def test_tag_of_no_evaluation_set_left_out(tag: str) -> None:
    assert not EVAL_LOSS.matches(tag)


@pytest.mark.parametrize("tag", NAMES)
def test_overfitting_found_under_each_name(tag: str) -> None:
    finding = findings_of({"train/loss": FALLING, tag: RISING})["overfitting"]
    assert finding.tags[0] == tag
    assert finding.steps[0] == 300


def test_overfitting_of_second_set_names_it() -> None:
    scalars = {"train/loss": FALLING, "eval/sst_loss": GOOD, "eval/mnli_loss": RISING}
    (finding,) = [one for one in diagnose(run_of(scalars)).findings if one.id == "overfitting"]
    assert finding.tags == ("eval/mnli_loss", "train/loss")
    assert "eval/mnli_loss" in finding.means


def test_evaluation_sets_pair_loss_with_accuracy() -> None:
    run = run_of({"val_acc": flat(0.5, 3), "eval/mnli_loss": GOOD, "eval/mnli_accuracy": flat(0.9, 5)})
    pairs = {(one.loss and one.loss[0], one.accuracy and one.accuracy[0]) for one in evaluation_sets(run)}
    assert pairs == {("eval/mnli_loss", "eval/mnli_accuracy"), (None, "val_acc")}


def test_evaluation_set_logged_twice_is_one() -> None:
    run = run_of({"val_loss": GOOD, "val_loss_epoch": GOOD})
    assert [one.loss and one.loss[0] for one in evaluation_sets(run)] == ["val_loss"]
    assert evaluation_sets(run)[0].title == "evaluation loss"


@pytest.mark.parametrize("tag", [tag for tag in NAMES if tag != "test_loss"])
def test_validation_loss_is_no_training_loss(tag: str) -> None:
    rising = np.append(FALLING, np.linspace(0.1, 2, 30))
    assert "divergence" not in findings_of({tag: rising})
