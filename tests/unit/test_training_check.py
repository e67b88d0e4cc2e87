"""Tests judgements of runs and of trainings of parts; real Trainers: tests/trainers/test_training_check.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tbx_callbacks.runs import read_run
from tbx_callbacks.runs.series import Run
from tbx_callbacks.testing import TrainingCheck, assert_healthy, run_of
from tests.helpers.report_runs import trained

HEALTHY = {"train/loss": list(np.geomspace(0.7, 0.1, 60))}
SPIKE = {"train/loss": [*HEALTHY["train/loss"][:30], 9.0, *HEALTHY["train/loss"][31:]]}


def test_assert_healthy_passes_healthy_run() -> None:
    (diagnosis,) = assert_healthy(run_of(HEALTHY))
    assert diagnosis.verdict.kind == "nothing_found"


def test_assert_healthy_error_has_finding_and_advice() -> None:
    with pytest.raises(
        AssertionError, match=r"warning TBX-LOSS-002 loss_spike since step 31: .*\n  try: .*\n  seen in: "
    ):
        assert_healthy(run_of(SPIKE))


@pytest.mark.parametrize("allow", [["loss_spike"], ["TBX-LOSS-002"], {"loss_spike", "other"}])
def test_assert_healthy_allowed_finding_passes(allow: Any) -> None:
    assert_healthy(run_of(SPIKE), allow=allow)


def test_assert_healthy_severity_decides() -> None:
    assert_healthy(run_of(SPIKE), fail_on="error")
    with pytest.raises(ValueError, match="fail_on must be error, warning or note"):
        assert_healthy(run_of(SPIKE), fail_on="fatal")  # type: ignore[arg-type]


@pytest.mark.parametrize("run", [Run(), run_of({"train/loss": [1.0, 0.9]})], ids=["empty", "short"])
def test_assert_healthy_too_little_fails(run: Run) -> None:
    with pytest.raises(AssertionError, match="add 'unjudged' to allow"):
        assert_healthy(run)
    assert_healthy(run, allow=["unjudged"])


def test_assert_healthy_every_run_of_folder(tmp_path: Path) -> None:
    trained(tmp_path / "good")
    trained(tmp_path / "bad", spike=60)
    with pytest.raises(AssertionError) as raised:
        assert_healthy(tmp_path)
    assert "bad: warning" in str(raised.value)
    assert "good: warning TBX-LOSS-002" not in str(raised.value)


def test_assert_healthy_text_for_allow_refused() -> None:
    with pytest.raises(TypeError, match=r"allow must be a list of rules, got the text 'loss_spike'"):
        assert_healthy(run_of(SPIKE), allow="loss_spike")


def test_training_check_trains_as_plain_loop(tmp_path: Path) -> None:
    def parts() -> tuple[nn.Module, list[Any], torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        inputs = torch.randn(30, 8, 4)
        return model, [(one, (one[:, 0] > 0).long()) for one in inputs], torch.optim.SGD(model.parameters(), 0.5)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    model, batches, optimizer = parts()
    check = TrainingCheck(tmp_path)
    check(model, batches, optimizer, loss=loss, steps=40)
    expected, batches, optimizer = parts()
    for step in range(40):
        optimizer.zero_grad()
        loss(expected, batches[step % 30]).backward()
        optimizer.step()
    assert torch.equal(model.weight, expected.weight)
    assert (check.folder.name, check.folder.is_dir()) == ("run_1", True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3,), "check_training must get a Hugging Face Trainer, a Lightning Trainer or a torch.nn.Module, got 3"),
        ((nn.Linear(1, 1),), "must get batches and an optimizer after a model"),
        ((nn.Linear(1, 1), [], torch.optim.SGD([torch.zeros(1)], 1.0)), "batches must hold a batch each time"),
    ],
)
def test_training_check_wrong_argument_named(tmp_path: Path, arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        TrainingCheck(tmp_path)(*arguments)


def test_training_check_clips_and_schedules(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    check = TrainingCheck(tmp_path)
    check(
        model,
        [torch.ones(8, 4)],
        optimizer,
        loss=lambda model, batch: (100 * model(batch) - 1).square().mean(),
        steps=4,
        allow=["unjudged"],
        fail_on="error",
        after_backward=lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01),
        after_step=scheduler.step,
    )
    scalars = read_run(check.folder).scalars
    assert scalars["lr/SGD/pg1"].values.tolist() == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    assert scalars["grad_norm/total"].values[0] > 1
    assert scalars["grad_norm_clipped/total"].values.max() <= 0.0101
