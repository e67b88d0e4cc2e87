"""Tests sessions in situations that lose or change numbers silently: second trainings, skipped steps, odd losses."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from tbx_callbacks import Session, TbxLoop
from tbx_callbacks.integrations import RunLocation, TrainingInfo
from tests.helpers.runs import Run

NORMS = {"every": 1, "metrics": ["loss", {"grad_norm": {"by": "total"}}, "hparams", "nonfinite"]}


def net() -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@dataclass(frozen=True)
class RaisesAtStepFive:
    """A cadence that fails later than any check."""

    def __call__(self, step: int) -> bool:
        return 1 / (step - 5) < 10


RaisesAtStepFive.__module__ = "tests.unit.integrations.test_session_faults"


def test_session_second_training_writes_its_start_values(tmp_path: Path) -> None:
    model, optimizer = net()
    session = Session(NORMS)
    for name in ("one", "two"):
        session.start(
            TrainingInfo(model, optimizer, log_schedule=1, hparams={"lr": 0.1}), RunLocation(str(tmp_path / name))
        )
        session.evaluate(accuracy=0.5)
        session.end()
    session.close()
    for name in ("one", "two"):
        run = Run(tmp_path / name)
        assert run.scalars["eval/accuracy"] == [(0, 0.5)]
        assert "best/accuracy" in run.scalars


def test_session_resumed_in_place_repeats_equal_values(tmp_path: Path) -> None:
    model, optimizer = net()
    session, info = Session(NORMS), TrainingInfo(model, optimizer, log_schedule=1)
    location = RunLocation(str(tmp_path / "run"))
    session.start(info, location)
    for start in (0, 2):
        if start:
            session.start(info, RunLocation(location.folder, resume=True), step=start)
        for _ in range(4 - start):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            session.end_batch(loss=1.0)
        session.evaluate(accuracy=0.5)
    session.end()
    session.close()
    assert Run(tmp_path / "run").scalars["eval/accuracy"] == [(4, 0.5)]


def test_before_clip_of_skipped_batch_not_kept(tmp_path: Path) -> None:
    model, optimizer = net()
    with TbxLoop(model, optimizer, NORMS, log_dir=tmp_path, log_every=1) as loop:
        for scale in (float("inf"), 100.0, 1.0):
            optimizer.zero_grad()
            model.weight.grad, model.bias.grad = torch.full((1, 2), scale), torch.zeros(1)
            loop.before_clip()
            if scale == 1.0:  # a GradScaler calls the optimizer of no other batch
                optimizer.step()
            loop.end_step(loss=1.0)
    run = Run(tmp_path)
    assert run.scalars["grad_norm/total"] == [(1, pytest.approx(2**0.5))]
    assert run.scalars["nonfinite/found"] == [(1, 0.0)]


def test_before_clip_without_step_not_used_later(tmp_path: Path) -> None:
    model, optimizer = net()
    with TbxLoop(model, optimizer, NORMS, log_dir=tmp_path, log_every=1) as loop:
        for scale in (100.0, 1.0):
            model.weight.grad, model.bias.grad = torch.full((1, 2), scale), torch.zeros(1)
            if scale > 1:
                loop.before_clip()
            else:
                optimizer.step()
            loop.end_step(loss=1.0)
    assert Run(tmp_path).scalars["grad_norm/total"] == [(1, pytest.approx(2**0.5))]


def test_clip_factor_of_two_optimizers_uses_joint_norm(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
    config = {"every": 1, "metrics": ["clip", {"grad_norm": {"by": "total"}}]}
    with TbxLoop(model, optimizers, config, log_dir=tmp_path, log_every=1, max_grad_norm=0.5) as loop:
        model(torch.ones(1, 2)).sum().backward()
        loop.before_clip()
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), 0.5))
        for optimizer in optimizers:
            optimizer.step()
        loop.end_step(loss=1.0)
    assert Run(tmp_path).at("clip/factor") == {1: pytest.approx(0.5 / (norm + 1e-6), rel=1e-5)}


def test_before_clip_of_unknown_optimizer_ignored(tmp_path: Path) -> None:
    model, optimizer = net()
    _, other = net()
    session = Session(NORMS, log_dir=tmp_path)
    session.start(TrainingInfo(model, optimizer, log_schedule=1))
    model.weight.grad, model.bias.grad = torch.full((1, 2), 100.0), torch.zeros(1)
    session.before_clip(optimizer=other)
    model.weight.grad = torch.ones(1, 2)
    optimizer.step()
    session.end_batch(loss=1.0)
    session.end()
    session.close()
    assert Run(tmp_path).scalars["grad_norm/total"] == [(1, pytest.approx(2**0.5))]


def test_half_precision_losses_do_not_overflow(tmp_path: Path) -> None:
    model, optimizer = net()
    with TbxLoop(model, optimizer, {"metrics": ["loss"]}, log_dir=tmp_path, log_every=100) as loop:
        for _ in range(100):
            optimizer.step()
            loop.end_step(loss=torch.tensor(5.0, dtype=torch.float16), samples=256)
    assert Run(tmp_path).scalars["train/loss"] == [(100, 5.0)]


def test_cadence_that_raises_later_leaves_training_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = net()
    path = "tests.unit.integrations.test_session_faults.RaisesAtStepFive"
    config = {"every": {path: {}}, "metrics": ["loss", {"weight_norm": {"by": "total"}}]}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=1) as loop:
        for _ in range(8):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            loop.log("mine/x", 1.0)
            loop.end_step(loss=1.0)
    assert Run(tmp_path).steps("weight_norm/total") == [1, 2, 3, 4, 6, 7, 8]
    assert sum("is not due where it raises" in message for message in caplog.messages) == 1


def test_writer_options_in_set_reach_tensorboard_writer(tmp_path: Path) -> None:
    model, optimizer = net()
    config = {"metrics": ["loss"], "writers": [{"tensorboard": {"flush_secs": 77.0}}]}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path) as loop:
        assert loop.writer._options["flush_secs"] == 77.0  # type: ignore[union-attr]


def test_session_pickled_after_training_asks_for_its_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = net()
    session = Session(NORMS, log_dir=tmp_path)
    session.start(TrainingInfo(model, optimizer, log_schedule=1))
    session.end()
    session.close()
    content = pickle.dumps(session)
    assert session.is_writer
    monkeypatch.setenv("RANK", "1")
    assert session.is_writer
    assert not pickle.loads(content).is_writer


def test_session_wrong_arguments_name_the_right_ones(tmp_path: Path) -> None:
    model, optimizer = net()
    session, info = Session(NORMS, log_dir=tmp_path), TrainingInfo(model, optimizer, log_schedule=1)
    with pytest.raises(TypeError, match="info must be a TrainingInfo, got Linear"):
        session.start(model)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="location must be a RunLocation"):
        session.start(info, tmp_path)  # type: ignore[arg-type]
    session.start(info, numbered=True)
    with pytest.raises(ValueError, match="step must be at least 1, got 0"):
        session.begin_step(0)
    session.begin_step(1)
    with pytest.raises(ValueError, match="norm must be a scalar"):
        session.record_clipping(torch.ones(2), 1.0)
    session.record_clipping(torch.ones(1), 1.0)
    session.end()
    session.close()


@pytest.mark.parametrize("parts", [(0, 1), (1,)])
def test_trainer_clips_parts_factor_left_out(tmp_path: Path, parts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session = Session({"every": 1, "metrics": ["clip", {"grad_norm": {"by": "total"}}]}, log_dir=tmp_path)
    session.start(TrainingInfo(model, optimizer, log_schedule=1, clipping="norm"))
    (model(torch.ones(1, 2)).sum() * 10).backward()
    norm = float(torch.cat([parameter.grad.double().flatten() for parameter in model.parameters()]).norm())
    for part in parts:  # as a trainer does that reports each call of its own clipping
        session.before_clip()
        session.record_clipping(nn.utils.clip_grad_norm_(model[part].parameters(), 0.5), 0.5)
    optimizer.step()
    session.end_batch(loss=1.0)
    session.end()
    session.close()
    run = Run(tmp_path)
    assert not {"clip/factor", "clip/share"} & set(run.scalars)
    assert run.at("grad_norm/total") == {1: pytest.approx(norm, rel=1e-6)}
