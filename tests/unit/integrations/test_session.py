"""Tests that a session driven by hand writes what `TbxLoop` writes, and how it answers mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import ConfigError, Session, TbxLoop
from tbx_callbacks.integrations import Action, RunLocation, TrainingInfo
from tests.helpers.data import FULL
from tests.helpers.runs import Run, files

TOTAL: dict[str, Any] = {"every": 1, "metrics": ["loss", {"weight_norm": {"by": "total"}}]}
CLOCK = ("perf/", "memory/")
MAX_NORM, STEPS, ACCUMULATE = 0.1, 8, 2


def net() -> tuple[nn.Sequential, torch.optim.SGD]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def hooks(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    step_hooks = len(optimizer._optimizer_step_post_hooks) + len(optimizer._optimizer_step_pre_hooks)
    return step_hooks + sum(len(module._forward_hooks) for module in model.modules())


def has_failed(folder: Path) -> bool:
    from tensorboard.plugins.hparams import metadata

    content = Run(folder).plugin("hparams")["_hparams_/session_end_info"]
    return metadata.parse_session_end_info_plugin_data(content).status == 2


class Trainer:
    """A trainer with events: it accumulates gradients over two micro-batches and clips them."""

    def __init__(self, steps: int = STEPS) -> None:
        self.model, self.optimizer = net()
        self.steps = steps
        self.info = TrainingInfo(
            self.model, self.optimizer, log_schedule=2, clipping="norm", hparams={"size": 8}, texts={"args": "size: 8"}
        )

    def train(self, on: Mapping[str, Callable[..., Any]]) -> None:
        made = torch.Generator().manual_seed(1)
        for step in range(1, self.steps + 1):
            on["step_begin"](step)
            for micro in range(ACCUMULATE):
                x, y = torch.randn(6, 4, generator=made), torch.randint(0, 2, (6,), generator=made)
                logits = self.model(x)
                loss = nn.functional.cross_entropy(logits, y)
                loss.backward()
                if micro == ACCUMULATE - 1:
                    on["gradients"]()
                    nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                on["batch"](loss=loss, samples=len(x), tokens=3, outputs={"logits": logits}, labels=y)
            on["step_end"](step)
        on["evaluation"](accuracy=0.5)


def nothing(*args: Any, **kwargs: Any) -> None:
    """Handles an event that does not matter."""


def with_loop(folder: Path) -> None:
    trainer = Trainer()
    options: dict[str, Any] = {"log_every": 2, "max_grad_norm": MAX_NORM, "hparams": {"size": 8}}
    with TbxLoop(trainer.model, trainer.optimizer, FULL, log_dir=folder, **options) as loop:
        trainer.train(
            {
                "step_begin": nothing, "gradients": loop.before_clip, "batch": loop.end_step, "step_end": nothing,
                "evaluation": loop.evaluate,
            }
        )  # fmt: skip


def counted(folder: Path) -> None:
    trainer, session = Trainer(), Session(FULL, log_dir=folder)
    session.start(trainer.info)
    trainer.train(
        {
            "step_begin": nothing,
            "gradients": lambda: session.before_clip(max_norm=MAX_NORM),
            "batch": session.end_batch,
            "step_end": nothing,
            "evaluation": session.evaluate,
        }
    )
    session.end()
    session.close()


def numbered(folder: Path) -> None:
    trainer, losses = Trainer(), []

    def batch(loss: Tensor, samples: int, tokens: int, outputs: Any, labels: Tensor) -> None:
        losses.append(loss.item())
        session.record_outputs(outputs, labels)
        session.record_batch(loss=loss, samples=samples, tokens=tokens)

    def step_end(step: int) -> None:
        assert session.end_step(step, logs_follow=step % 2 == 0) is Action.NONE
        if step % 2 == 0:
            session.record_logs({"train/loss": sum(losses) / len(losses), "train/learning_rate": 0.1}, step=step)
            losses.clear()

    with Session(FULL, log_dir=folder) as session:
        session.start(trainer.info, numbered=True)
        trainer.train(
            {
                "step_begin": session.begin_step,
                "gradients": lambda: session.before_clip(max_norm=MAX_NORM),
                "batch": batch,
                "step_end": step_end,
                "evaluation": session.evaluate,
            }
        )
        assert session.step == STEPS


@pytest.mark.parametrize("drive", [counted, numbered])
def test_session_matches_loop(tmp_path: Path, drive: Callable[[Path], None]) -> None:
    with_loop(tmp_path / "loop")
    drive(tmp_path / "session")
    expected, read = Run(tmp_path / "loop"), Run(tmp_path / "session")
    assert {"train/loss", "train/accuracy", "grad_norm/total", "clip/factor", "eval/accuracy"} <= set(expected.scalars)
    assert set(read.scalars) == set(expected.scalars)
    assert set(read.histograms) == set(expected.histograms) != set()
    assert sorted(read.texts) == sorted(expected.texts)
    for tag, points in expected.scalars.items():
        assert read.steps(tag) == [step for step, _ in points], tag
        if not tag.startswith(CLOCK):
            exact = drive is counted
            assert read.scalars[tag] == (points if exact else [(s, pytest.approx(v, rel=1e-6)) for s, v in points]), tag
    for tag, histograms in expected.histograms.items():
        assert {s: list(h.bucket) for s, h in read.histograms[tag].items()} == {
            s: list(h.bucket) for s, h in histograms.items()
        }


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.end_batch(loss=1.0),
        lambda session: session.begin_step(1),
        lambda session: session.record_batch(loss=1.0),
        lambda session: session.end_step(1),
        lambda session: session.before_clip(),
    ],
)
def test_session_before_start_raises(call: Callable[[Session], Any]) -> None:
    with pytest.raises(RuntimeError, match=r"must be called after start; call start\(TrainingInfo\(...\)\) first"):
        call(Session("minimal"))


def test_session_other_way_of_steps_raises(tmp_path: Path) -> None:
    info = Trainer().info
    with Session(TOTAL, log_dir=tmp_path / "counted") as session:
        session.start(info)
        for call in (lambda: session.begin_step(1), lambda: session.end_step(1), lambda: session.record_batch()):
            with pytest.raises(RuntimeError, match=r"where steps are numbered; call start\(..., numbered=True\)"):
                call()
    with Session(TOTAL, log_dir=tmp_path / "numbered") as session:
        session.start(info, numbered=True)
        with pytest.raises(RuntimeError, match="where the session counts steps; use record_batch and end_step"):
            session.end_batch()


def test_session_second_start_while_running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that the trainer does not report left the first training."""
    trainer, session = Trainer(), Session({"every": 1, "metrics": ["loss", "hparams"]}, log_dir=tmp_path / "run")
    info = replace(trainer.info, log_schedule=1)
    for folder, number in (("run", 3), ("run_2", 2)):
        session.start(info)
        for _ in range(number):
            trainer.optimizer.step()
            session.end_batch(loss=1.0)
        assert session.log_dir == str(tmp_path / folder)
    session.close()
    for folder, steps in (("run", [1, 2, 3]), ("run_2", [1, 2])):
        assert Run(tmp_path / folder).steps("train/loss") == steps
        assert has_failed(tmp_path / folder)
    assert hooks(trainer.model, trainer.optimizer) == 0


def test_session_after_end_ignores_steps(tmp_path: Path) -> None:
    trainer = Trainer()
    with Session(TOTAL, log_dir=tmp_path) as session:
        session.start(trainer.info)
        trainer.optimizer.step()
        session.end_batch(loss=1.0)
        session.end()
        session.end(succeeded=False)
        assert session.end_batch(loss=1.0) is session.end_step(9) is Action.NONE
        session.begin_step(3)
        session.record_batch()
        session.record_outputs({"logits": torch.ones(1, 2)}, torch.zeros(1))
        session.record_clipping(1.0, 1.0)
        session.before_clip()
        session.evaluate(accuracy=0.25)  # is written
        session.log("mine/x", 1.0)
    assert session.end_batch(loss=1.0) is Action.NONE
    session.close()
    read = Run(tmp_path)
    assert (session.step, session.running) == (1, False)
    assert (read.at("eval/accuracy"), read.at("mine/x")) == ({1: 0.25}, {1: 1.0})
    assert len(files(tmp_path)) == 1


def test_session_on_rank_without_writer_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.chdir(tmp_path)
    trainer = Trainer()
    with Session(FULL, log_dir="run") as session:
        session.start(trainer.info, RunLocation("given"))
        monkeypatch.setenv("RANK", "0")  # the rank is that of the start
        assert not session.is_writer
        trainer.optimizer.step()
        assert session.end_batch(loss=1.0) is Action.NONE
        session.evaluate(accuracy=1.0)
        session.record_logs({"train/x": 1.0})
        session.log("mine/x", 1.0)
        session.writer.add_scalar("mine/y", 1.0, 1)
        session.on_forward(nothing)
    assert (session.running, session.started, session.log_dir) == (False, True, None)
    assert list(tmp_path.iterdir()) == []
    assert hooks(trainer.model, trainer.optimizer) == 0


def test_session_failed_start_leaves_no_hook(tmp_path: Path) -> None:
    trainer = Trainer()
    session = Session({"every": 1, "metrics": [{"update_norm": {"by": {"x": "nothing_like_this"}}}]}, log_dir=tmp_path)
    with pytest.raises(ConfigError, match="nothing_like_this"):
        session.start(trainer.info)
    assert hooks(trainer.model, trainer.optimizer) == 0


def test_session_exception_in_context_marks_failure(tmp_path: Path) -> None:
    trainer = Trainer()

    def fail() -> None:
        with Session({**TOTAL, "metrics": [*TOTAL["metrics"], "hparams"]}, log_dir=tmp_path) as session:
            session.start(trainer.info)
            trainer.optimizer.step()
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert Run(tmp_path).steps("weight_norm/total") == [1]
    assert has_failed(tmp_path)
    assert hooks(trainer.model, trainer.optimizer) == 0


# -- folders -----------------------------------------------------------------------------------------------------------


def test_session_folder_default_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    info = Trainer().info
    for runs_dir in ("runs", "out/runs"):
        with Session("minimal") as session:
            session.runs_dir = runs_dir
            session.start(info)
            assert Path(session.log_dir or "").parent == tmp_path / runs_dir
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "wanted")
    with Session("minimal") as session:
        session.start(info)
        assert session.log_dir == session.requested_dir == str(tmp_path / "wanted")


def test_session_evaluation_first_shares_folder(tmp_path: Path) -> None:
    session = Session(TOTAL)
    session.runs_dir = None
    with pytest.raises(RuntimeError, match="writer must be used after the callback was given to a Trainer"):
        _ = session.writer
    session.runs_dir = str(tmp_path)
    session.evaluate(accuracy=0.25)
    trainer = Trainer()
    session.start(trainer.info)
    trainer.optimizer.step()
    session.end_batch(loss=1.0)
    session.close()
    (folder,) = tmp_path.iterdir()
    assert Run(folder).at("eval/accuracy") == {0: 0.25}
    assert Run(folder).steps("weight_norm/total") == [1]


@pytest.mark.parametrize("location", [None, "given"])
def test_session_resumed_step_continues_folder(tmp_path: Path, location: str | None) -> None:
    folder = tmp_path / (location or "run")
    for start in (0, 3):
        trainer, session = Trainer(), Session(TOTAL, log_dir=tmp_path / "run")
        given = RunLocation(str(folder), resume=start > 0) if location else None
        session.start(trainer.info, given, step=start)
        for _ in range(5):
            trainer.optimizer.step()
            session.end_batch(loss=1.0)
        session.end()
        session.close()
        assert (session.log_dir, session.step) == (str(folder), start + 5)
    assert Run(folder).steps("weight_norm/total") == list(range(1, 9))


# -- what integrations ask ---------------------------------------------------------------------------------------------


def test_session_on_forward_training_passes_until_end(tmp_path: Path) -> None:
    trainer, seen, alive = Trainer(), [], [True]
    info = TrainingInfo(trainer.model, trainer.optimizer, log_schedule=2, still_training=lambda: alive[0])
    with Session(TOTAL, log_dir=tmp_path) as session:
        for last in ("end", "left"):
            session.start(info, step=session.step)
            session.on_forward(lambda outputs, kwargs: seen.append((outputs, kwargs)))
            output = trainer.model(torch.ones(1, 4))
            trainer.model.eval()
            trainer.model(torch.ones(1, 4))
            trainer.model.train()
            (outputs, inputs) = seen.pop()
            assert (len(seen), outputs is output, list(inputs)) == (0, True, [0])
            if last == "end":
                session.end()
            else:
                alive[0] = False  # an exception that the trainer does not report
            trainer.model(torch.ones(1, 4))
            assert seen == []
            assert hooks(trainer.model, trainer.optimizer) == 0


def test_session_expected_labels_used_once(tmp_path: Path) -> None:
    trainer = Trainer()
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    with Session({"every": 1, "metrics": ["train_accuracy"]}, log_dir=tmp_path) as session:
        assert not session.needs_labels
        assert not session.needs_outputs
        session.start(trainer.info)
        assert session.needs_labels
        assert session.needs_outputs
        assert not session.needs_batches
        session.expect_labels(labels)
        session.record_outputs({"logits": logits})
        session.record_outputs({"logits": logits})  # without labels: not counted
        trainer.optimizer.step()
        session.end_batch(loss=1.0)
    assert Run(tmp_path).at("train/accuracy") == {1: 0.5}


def test_session_before_clip_of_wrapped_optimizer(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)})
    optimizers = {name: torch.optim.SGD(model[name].parameters(), lr=0.1) for name in model}
    norms: dict[str, float] = {}
    with Session({"every": 1, "metrics": [{"grad_norm": {"by": "total"}}]}, log_dir=tmp_path) as session:
        session.start(TrainingInfo(model, optimizers, log_schedule=1, clipping="norm"))
        for name, optimizer in optimizers.items():
            model[name](torch.ones(3, 2)).sum().backward()
            assert session.has_due_metrics
            session.before_clip(optimizer=SimpleNamespace(optimizer=optimizer), max_norm=MAX_NORM)
            norms[f"grad_norm/{name}/total"] = float(nn.utils.clip_grad_norm_(model[name].parameters(), MAX_NORM))
            optimizer.step()
        session.end_batch()
    assert {tag: value for tag, [(_, value)] in Run(tmp_path).scalars.items()} == pytest.approx(norms)


def nan_losses(numbered: bool, folder: Path) -> Iterator[tuple[int, Action, Session]]:
    """Trains with NaN losses from step 3 on; yields each step with the action that the session returned."""
    rules = {"nonfinite": ["stop", "checkpoint"]}
    config = {"every": 1, "metrics": ["loss", "nonfinite"], "rules": rules}
    trainer = Trainer()
    with Session(config, log_dir=folder) as session:
        session.start(TrainingInfo(trainer.model, trainer.optimizer, log_schedule=1), numbered=numbered)
        for step in range(1, 7):
            loss = trainer.model(torch.ones(1, 4)).sum() * (float("nan") if step == 3 else 1.0)
            loss.backward()
            if numbered:
                session.begin_step(step)
                session.record_batch(loss=loss, samples=1)
                trainer.optimizer.step()
                yield step, session.end_step(step), session
            else:
                trainer.optimizer.step()
                yield step, session.end_batch(loss=loss, samples=1), session


@pytest.mark.parametrize("numbered", [False, True])
def test_session_returns_requests_of_rules(tmp_path: Path, numbered: bool) -> None:
    actions = {}
    for step, action, session in nan_losses(numbered, tmp_path):
        actions[step] = action
        assert session.should_stop == (Action.STOP in action)
        assert session.should_checkpoint == (Action.CHECKPOINT in action)
    both = Action.STOP | Action.CHECKPOINT
    assert actions == {1: Action.NONE, 2: Action.NONE, 3: Action.NONE, 4: both, 5: Action.STOP, 6: Action.STOP}


def test_session_logged_clip_factor_replaces_missing_gradients(tmp_path: Path) -> None:
    trainer = Trainer()
    with Session({"every": 1, "metrics": ["clip"]}, log_dir=tmp_path) as session:
        session.start(trainer.info, numbered=True)
        session.begin_step(1)
        trainer.optimizer.step()
        session.end_step(1, logs_follow=True)
        session.record_logs({"train/grad_norm": 2.0}, clip_factor=0.25)
    assert Run(tmp_path).at("clip/factor") == {1: 0.25}


def test_session_folder_unaffected_by_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    trainer, session = Trainer(), Session(TOTAL, log_dir="run")
    monkeypatch.chdir(tmp_path / "b")
    session.start(trainer.info)
    trainer.optimizer.step()
    monkeypatch.chdir(tmp_path)
    session.end_batch(loss=1.0)
    session.end()
    session.evaluate(accuracy=0.5)
    read = Run(tmp_path / "a/run")
    assert (read.steps("weight_norm/total"), read.at("eval/accuracy")) == ([1], {1: 0.5})
    assert not list((tmp_path / "b").iterdir())


def test_session_last_value_of_tag(tmp_path: Path) -> None:
    trainer = Trainer()
    with Session(TOTAL, log_dir=tmp_path) as session:
        assert session.last_value("train/loss") is None
        session.start(TrainingInfo(trainer.model, trainer.optimizer, log_schedule=1))
        trainer.optimizer.step()
        session.end_batch(loss=1.5)
        session.end()
        assert session.last_value("train/loss") == 1.5


@pytest.mark.parametrize(
    ("numbered", "steps", "warned"), [(False, 30, 1), (True, 30, 1), (False, 50, 0), (True, 50, 0)]
)
def test_session_without_point_option_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, numbered: bool, steps: int, warned: int
) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    info = TrainingInfo(model, optimizer, log_schedule=50, log_option="logging_steps")
    with Session({"metrics": ["loss"]}, log_dir=tmp_path) as session:
        session.start(info, numbered=numbered)
        for step in range(1, steps + 1):
            if numbered:
                session.begin_step(step)
            optimizer.step()
            if not numbered:
                session.end_batch(loss=0.5)
                continue
            session.end_step(step)
            if step % 50 == 0:
                session.record_logs({"train/loss": 0.5}, step=step, is_point=True)
    text = "no point of train/loss was due in 30 steps, because logging_steps is 50; set logging_steps=3"
    assert caplog.text.count(text) == caplog.text.count("no point of") == warned
