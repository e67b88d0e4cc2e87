"""Trains while calls of the writer to the file system fail, and while other code takes its file away."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tbx_callbacks import TbxTrainerCallback
from tbx_callbacks.writers import TensorBoardWriter
from tests.faults.training import EVERY_STEP, weights_digest
from tests.helpers.failing_calls import CALLS, ERRORS, NOTHING, SHORT, TORN, FailingCalls, failing
from tests.helpers.handles import handles
from tests.helpers.models import trainer
from tests.helpers.runs import Run, files
from tests.helpers.variations import variations

pytestmark = pytest.mark.faults
STEPS = 12


class CallAtStep(TrainerCallback):
    """Calls a function at the end of the sixth step."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            self._act()


def train(folder: Path, act: Callable[[], object] | None = None, **options: Any) -> str:
    """Trains with the callback, which writes to `logs`; returns a digest of the weights.

    When `act` is called, the values of the steps before are in the file, and nothing is written meanwhile.
    """
    callback = TbxTrainerCallback(EVERY_STEP, log_dir=folder / "logs", **options)

    def flush_and_act() -> None:
        if act is not None:
            callback.writer.flush()
            act()

    callbacks = [callback, CallAtStep(flush_and_act)]
    run = trainer(folder / "out", callbacks=callbacks, logging_steps=1, max_steps=STEPS)
    run.train()
    callback.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tbx-event")]
    assert not [target for target in handles() if target.startswith(str(folder))]
    return weights_digest(run.model)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = trainer(tmp_path_factory.mktemp("plain"), logging_steps=1, max_steps=STEPS)
    run.train()
    return weights_digest(run.model)


USUAL = [("write", fault) for fault in ("ENOSPC", "EIO", SHORT, TORN)]


def losses(*folders: Path) -> list[int]:
    """The steps of the loss in all folders."""
    return [step for folder in folders if files(folder) for step in Run(folder).steps("train/loss")]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *variations([(name, "EIO") for name in CALLS if name not in ("write", "open", "mkdir")], ("fsync", "EIO")),
        *variations([("write", fault) for fault in (*ERRORS, SHORT, NOTHING, TORN)], *USUAL),
    ],
)
def test_training_with_failing_calls_same_weights(
    tmp_path: Path, undisturbed: str, caplog: pytest.LogCaptureFixture, name: str, fault: str
) -> None:
    calls = FailingCalls(name, fault, 4 if name == "write" else 1, for_ever=True)
    with ExitStack() as stack:
        if name in ("pread", "ftruncate"):
            stack.enter_context(failing(FailingCalls("write", TORN, 4, for_ever=False)))
        stack.enter_context(failing(calls))
        assert train(tmp_path) == undisturbed
    assert calls.failed or name == "unlink"
    kept = losses(tmp_path / "logs")
    if name != "write" or fault == SHORT:
        assert kept == list(range(1, STEPS + 1))
    else:
        assert kept == list(range(1, len(kept) + 1))
        assert len(kept) < STEPS
        assert caplog.text.count("training continues") == 1
        assert "values could not be written to" in caplog.text


def move(path: Path, logs: Path) -> None:
    path.rename(logs.parent / path.name)


def move_folder(path: Path, logs: Path) -> None:
    shutil.move(logs, logs.parent / "moved")


def replace(path: Path, logs: Path) -> None:
    path.rename(logs.parent / path.name)
    path.write_bytes(b"")


def shorten(path: Path, logs: Path) -> None:
    shutil.copy(path, logs.parent)
    os.truncate(path, 0)


def close_every_descriptor(path: Path, logs: Path) -> None:
    for descriptor in Path("/proc/self/fd").iterdir():
        if descriptor.exists() and descriptor.samefile(path):
            os.close(int(descriptor.name))


def change_directory(path: Path, logs: Path) -> None:
    os.chdir(logs)


@pytest.fixture
def same_directory() -> Iterator[None]:
    before = Path.cwd()
    yield
    os.chdir(before)


@pytest.mark.usefixtures("same_directory")
@pytest.mark.parametrize(
    "act", [move, move_folder, replace, shorten, close_every_descriptor, change_directory], ids=lambda act: act.__name__
)
def test_training_whose_file_is_taken_loses_nothing(
    tmp_path: Path, undisturbed: str, caplog: pytest.LogCaptureFixture, act: Callable[[Path, Path], None]
) -> None:
    logs = tmp_path / "logs"
    assert train(tmp_path, lambda: act(files(logs)[0], logs)) == undisturbed
    assert losses(tmp_path / "moved", tmp_path, logs) == list(range(1, STEPS + 1))
    assert caplog.text.count("later values go to") == (act is not change_directory)
    assert "are lost" not in caplog.text


def test_training_while_clock_is_set_back_keeps_order(
    tmp_path: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time

    def set_back() -> None:
        monkeypatch.setattr(time, "time", lambda: now() - 100_000)
        shutil.move(files(tmp_path / "logs")[0], tmp_path)

    assert train(tmp_path, set_back) == undisturbed
    assert losses(tmp_path, tmp_path / "logs") == list(range(1, STEPS + 1))


def test_training_with_little_memory_counts_losses(
    tmp_path: Path, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    with failing(FailingCalls("write", "ENOSPC", 4, for_ever=True)):
        assert train(tmp_path, max_mib=1e-4) == undisturbed
    kept = losses(tmp_path / "logs")
    assert kept == list(range(1, len(kept) + 1))
    assert caplog.text.count("are dropped") == 1
    assert "are lost" in caplog.text


def test_training_beside_other_writer_of_folder_complete(tmp_path: Path, undisturbed: str) -> None:
    def write_too() -> None:
        other = TensorBoardWriter(tmp_path / "logs")
        for step in range(1, 101):
            other.write(step, {"other": float(step)})
        other.close()

    assert train(tmp_path, write_too) == undisturbed
    read = Run(tmp_path / "logs")
    assert read.steps("train/loss") == list(range(1, STEPS + 1))
    assert read.steps("other") == list(range(1, 101))
