"""Tests that copies of sessions and callbacks, and forked children, leave the run of the original alone."""

from __future__ import annotations

import copy
import gc
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks import Session, TbxLoop
from tbx_callbacks.integrations import TrainingInfo
from tests.helpers.data import FULL
from tests.helpers.runs import Run, files
from tests.helpers.variations import variations

TOTAL: dict[str, Any] = {"every": 1, "metrics": ["loss", {"weight_norm": {"by": "total"}}]}
ALL: dict[str, Any] = {"every": 1, "metrics": ["loss", "weight_norm", "hparams", "weight_histogram"]}


class Trained:
    """A model with its optimizer and description."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.info = TrainingInfo(self.model, self.optimizer, log_schedule=1)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.ones(1, 3)).sum().backward()
        self.optimizer.step()


def session_end(folder: Path) -> int:
    """The status at the end of the run: 1 is success, 2 is failure."""
    from tensorboard.plugins.hparams import metadata

    content = Run(folder).plugin("hparams")["_hparams_/session_end_info"]
    status: int = metadata.parse_session_end_info_plugin_data(content).status
    return status


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda item: pickle.loads(pickle.dumps(item)),
}


@pytest.mark.parametrize("how", COPIES)
def test_session_copy_has_arguments_and_no_run(tmp_path: Path, how: str) -> None:
    trainer, session = Trained(), Session(FULL, log_dir=tmp_path / "first", flush_secs=7.0)
    session.runs_dir = "elsewhere"
    before = COPIES[how](session)
    session.start(trainer.info)
    during = COPIES[how](session)
    trainer.step()
    session.end_batch(loss=1.0)
    session.end()
    after = COPIES[how](session)
    for each in (before, during, after):
        assert (each.config, each.requested_dir) == (session.config, str(tmp_path / "first"))
        assert (each._options["flush_secs"], each.runs_dir) == (7.0, "elsewhere")
        assert (each.log_dir, each.step, each.running, each.started) == (None, 0, False, False)


@pytest.mark.slow
@pytest.mark.parametrize("how", variations(COPIES, "deepcopy"))
def test_session_closing_copy_leaves_run_alone(tmp_path: Path, how: str) -> None:
    trainer, session = Trained(), Session(ALL, log_dir=tmp_path / "run")
    session.start(trainer.info)
    for step in range(1, 5):
        trainer.step()
        session.end_batch(loss=float(step))
        session.log("mine/x", 1.0)
        session.writer.flush()
        before = contents(tmp_path)
        other = COPIES[how](session)
        other.end(succeeded=False)
        other.close()
        del other
        gc.collect()
        assert contents(tmp_path) == before
    session.end()
    session.close()
    assert Run(tmp_path / "run").at("train/loss") == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    assert session_end(tmp_path / "run") == 1


def test_session_copy_trains_beside_original(tmp_path: Path) -> None:
    trainer, session = Trained(), Session(TOTAL, log_dir=tmp_path / "run")
    session.start(trainer.info)
    other, of_copy = copy.deepcopy(session), Trained()
    other.start(of_copy.info)
    for each, made, loss in ((session, trainer, 1.0), (other, of_copy, 2.0)):
        made.step()
        each.end_batch(loss=loss)
        each.close()
    assert Run(tmp_path / "run").at("train/loss") == {1: 1.0}
    assert Run(tmp_path / "run_2").at("train/loss") == {1: 2.0}


@pytest.mark.parametrize("how", COPIES)
def test_loop_copy_writes_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    trained = Trained()
    with TbxLoop(trained.model, trained.optimizer, TOTAL, log_dir=tmp_path / "run") as loop:
        for step in range(1, 4):
            other = COPIES[how](loop)
            trained.step()
            loop.end_step(loss=float(step))
            loop.writer.flush()
            before = contents(tmp_path)
            for _ in range(2):
                other.before_clip()
                other.end_step(loss=100.0)
                other.evaluate(accuracy=0.5)
                other.log("mine/x", 1.0)
                other.writer.add_scalar("a", 1.0)
            with other:
                pass
            other.close()
            assert contents(tmp_path) == before
    assert Run(tmp_path / "run").at("train/loss") == {1: 1.0, 2: 2.0, 3: 3.0}
    warning = "a copy of a TbxLoop writes nothing; create a TbxLoop for the model of the copy"
    assert caplog.messages.count(warning) == 3  # once for each copy


def test_loop_copy_of_experiment_trains_copied_model(tmp_path: Path) -> None:
    class Experiment:
        def __init__(self) -> None:
            self.trained = Trained()
            self.loop = TbxLoop(self.trained.model, self.trained.optimizer, TOTAL, log_dir=tmp_path / "run")

    first = Experiment()
    second = copy.deepcopy(first)
    assert second.trained.model is not first.trained.model
    second.trained.step()
    second.loop.end_step(loss=9.0)
    first.trained.step()
    first.loop.end_step(loss=1.0)
    first.loop.close()
    assert Run(tmp_path / "run").at("train/loss") == {1: 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def in_child(work: Callable[[], object]) -> int:
    """Runs the work in a forked child; returns its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_session_forked_child_leaves_run_alone(tmp_path: Path) -> None:
    trained, session = Trained(), Session(FULL, log_dir=tmp_path / "run")
    session.start(trained.info)
    trained.step()
    session.end_batch(loss=1.0)
    session.writer.flush()
    before = contents(tmp_path)

    def work() -> None:
        trained.step()
        session.end_batch(loss=5.0)
        session.log("mine/x", 1.0)
        session.evaluate(accuracy=0.5)
        session.writer.add_scalar("a", 1.0)
        session.end(succeeded=False)
        session.close()
        assert not session.running

    assert in_child(work) == 0
    assert contents(tmp_path) == before
    trained.step()
    session.end_batch(loss=2.0)
    session.end()
    assert Run(tmp_path / "run").at("train/loss") == {1: 1.0, 2: 2.0}


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_session_forked_child_can_start_own_run(tmp_path: Path) -> None:
    trained, session = Trained(), Session(TOTAL, log_dir=tmp_path / "run")
    session.start(trained.info)
    trained.step()
    session.end_batch(loss=1.0)

    def work() -> None:
        own = Trained()
        session.start(own.info)
        assert session.log_dir == str(tmp_path / "run_2")
        own.step()
        session.end_batch(loss=7.0)
        session.end()
        session.close()

    assert in_child(work) == 0
    session.close()
    assert Run(tmp_path / "run").at("train/loss") == {1: 1.0}
    assert Run(tmp_path / "run_2").at("train/loss") == {1: 7.0}


@needs_fork
def test_session_forked_before_training_keeps_its_folder(tmp_path: Path) -> None:
    session = Session(TOTAL, log_dir=tmp_path / "run")

    def work() -> None:
        own = Trained()
        session.start(own.info)
        own.step()
        session.end_batch(loss=7.0)
        session.close()

    assert in_child(work) == 0
    assert Run(tmp_path / "run").at("train/loss") == {1: 7.0}
    assert len(files(tmp_path / "run")) == 1


def test_session_dropped_while_it_runs_is_written(tmp_path: Path) -> None:
    trained, session = Trained(), Session(ALL, log_dir=tmp_path / "run")
    session.start(trained.info)
    trained.step()
    session.end_batch(loss=1.0)
    session.log("mine/x", 3.0)
    del session
    gc.collect()
    assert Run(tmp_path / "run").at("mine/x") == {1: 3.0}
    assert session_end(tmp_path / "run") == 2
