"""Tests a real training run on disks that are full, deleted, read-only, limited or slow."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from transformers import TrainerCallback

from tbx_callbacks import TbxTrainerCallback
from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.faults.training import EVERY_STEP, weights_digest
from tests.helpers.models import trainer
from tests.helpers.processes import python
from tests.helpers.runs import Run, files
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.faults
STEPS = 40


class CallAtSteps(TrainerCallback):
    """Calls functions at the end of given steps."""

    def __init__(self, **acts: Any) -> None:
        self.acts = {int(name.removeprefix("at")): act for name, act in acts.items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.acts.get(state.global_step, lambda: None)()


def train(tmp_path: Path, logs: str | Path, **acts: Any) -> tuple[str, TbxTrainerCallback]:
    """Trains and calls functions; when that of step 10 is called, the values of the steps before are in the file."""
    callback = TbxTrainerCallback(EVERY_STEP, log_dir=logs)
    if "at10" in acts:
        act = acts["at10"]
        acts["at10"] = lambda: (callback.writer.flush(), act())
    run = trainer(tmp_path / "out", callbacks=[callback, CallAtSteps(**acts)], logging_steps=1, max_steps=STEPS)
    run.train()
    callback.close()
    return weights_digest(run.model), callback


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = trainer(tmp_path_factory.mktemp("plain"), logging_steps=1, max_steps=STEPS)
    run.train()
    return weights_digest(run.model)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            pass


def test_full_disk_with_room_again_loses_nothing(
    tmp_path: Path, small_disk: Path, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    logs = small_disk / "logs"

    def make_room() -> None:
        wait_until(lambda: "training continues" in caplog.text)
        (small_disk / "filler").unlink()

    digest, _ = train(tmp_path, logs, at10=lambda: fill(small_disk), at25=make_room)
    assert digest == undisturbed
    assert Run(logs).steps("train/loss") == list(range(1, STEPS + 1))
    assert caplog.text.count("No space left on device; training continues") == 1
    assert caplog.text.count("works again") == 1
    assert "are lost" not in caplog.text


def test_full_disk_to_the_end_reports_losses(
    tmp_path: Path, small_disk: Path, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    digest, _ = train(tmp_path, small_disk / "logs", at10=lambda: fill(small_disk))
    assert digest == undisturbed
    kept = Run(small_disk / "logs").steps("train/loss")
    assert kept == list(range(1, len(kept) + 1))  # readable to the end, no torn record
    assert 9 <= len(kept) < STEPS
    assert caplog.text.count("training continues") == 1
    assert "values could not be written to" in caplog.text


def test_read_only_file_for_a_while_loses_nothing(
    tmp_path: Path, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    logs = tmp_path / "logs"

    def attribute(flag: str) -> None:
        (path,) = files(logs)
        done = subprocess.run(["chattr", flag, str(path)], capture_output=True)
        if done.returncode:
            pytest.skip(f"needs a file system with chattr: {done.stderr.decode().strip()}")

    def make_writable() -> None:
        wait_until(lambda: "training continues" in caplog.text)
        attribute("-i")

    digest, _ = train(tmp_path, logs, at10=lambda: attribute("+i"), at25=make_writable)
    assert digest == undisturbed
    assert Run(logs).steps("train/loss") == list(range(1, STEPS + 1))
    assert caplog.text.count("Operation not permitted; training continues") == 1
    assert "are lost" not in caplog.text


def test_deleted_folder_recreated(tmp_path: Path, undisturbed: str, caplog: pytest.LogCaptureFixture) -> None:
    logs = tmp_path / "logs"
    digest, _ = train(tmp_path, logs, at10=lambda: shutil.rmtree(logs))
    assert digest == undisturbed
    kept = Run(logs).steps("train/loss")
    assert kept == list(range(kept[0], STEPS + 1))
    assert kept[0] <= 11
    assert "was deleted; later values go to" in caplog.text


def test_folder_replaced_by_file_continues_after_removal(
    tmp_path: Path, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    logs = tmp_path / "logs"

    def replace() -> None:
        shutil.rmtree(logs)
        logs.write_text("in the way")

    def remove() -> None:
        wait_until(lambda: "training continues" in caplog.text)
        logs.unlink()

    digest, _ = train(tmp_path, logs, at10=replace, at25=remove)
    assert digest == undisturbed
    kept = Run(logs).steps("train/loss")
    assert kept == list(range(kept[0], STEPS + 1))
    assert caplog.text.count("training continues") == 1


def test_file_size_limit_continues_in_new_file(
    tmp_path: Path, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    logs = tmp_path / "logs"
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        digest, _ = train(
            tmp_path, logs, at10=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, unlimited[1]))
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert digest == undisturbed
    assert Run(logs).steps("train/loss") == list(range(1, STEPS + 1))
    assert len(files(logs)) > 1
    assert all(path.stat().st_size <= 64 * 1024 for path in files(logs))
    assert "are lost" not in caplog.text


class SlowStore:
    """Accepts uploads to `slow://`: it waits before each, or fails."""

    def __init__(self, wait: Any, failures: int) -> None:
        self.wait, self.failures = wait, failures
        self.stored = b""

    def accept(self, data: bytes) -> None:
        self.wait()
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the store does not answer")
        self.stored = data


@pytest.fixture
def slow() -> Any:
    def make(wait: Any = lambda: None, failures: int = 0) -> SlowStore:
        store = SlowStore(wait, failures)

        class FileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
            protocol, cachable = "slow", False

            def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
                store.accept(value)

        fsspec.register_implementation("slow", FileSystem, clobber=True)
        return store

    return make


def read_bytes(data: bytes, folder: Path) -> Run:
    folder.mkdir()
    (folder / "events.out.tfevents.1").write_bytes(data)
    return Run(folder)


def test_hanging_store_does_not_block_training(tmp_path: Path, undisturbed: str, slow: Any) -> None:
    trained = threading.Event()
    # The store accepts nothing before the last step: only a training that does not wait for it gets there.
    store = slow(lambda: trained.wait(120) or pytest.fail("training waited for the store"))
    digest, _ = train(tmp_path, "slow://bucket/run", **{f"at{STEPS}": trained.set})
    assert digest == undisturbed
    assert read_bytes(store.stored, tmp_path / "read").steps("train/loss") == list(range(1, STEPS + 1))


def test_failing_upload_retried(tmp_path: Path, slow: Any, caplog: pytest.LogCaptureFixture) -> None:
    store = slow(failures=3)
    writer = TensorBoardWriter("slow://bucket/run", flush_secs=0.05)
    for step in range(1, 21):
        writer.write(step, {"a": float(step)})
        time.sleep(0.01)
    wait_until(lambda: not store.failures)
    writer.close()
    assert read_bytes(store.stored, tmp_path / "read").steps("a") == list(range(1, 21))
    assert caplog.text.count("the store does not answer; training continues") == 1
    assert "are lost" not in caplog.text


def test_failing_upload_to_the_end_counts_losses(slow: Any, caplog: pytest.LogCaptureFixture) -> None:
    slow(failures=1000)
    writer = TensorBoardWriter("slow://bucket/run", flush_secs=0.05)
    for step in range(1, 11):
        writer.write(step, {"a": 1.0, "b": 2.0})
    writer.close()
    assert "20 values could not be written to slow://bucket/run and are lost" in caplog.text


def test_full_backlog_drops_oldest_histograms_first(
    tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = TensorBoardWriter(small_disk / "logs", max_mib=0.05)
    writer.write(0, {"a": 0.0})
    writer.flush()
    fill(small_disk)
    histogram = HistogramCounts(tuple(range(64)), 0.0, 1.0, 1.0, 1.0)
    for step in range(1, 201):
        writer.write(step, {"a": float(step), "h": histogram})
        backlog = writer.summary_writer.file_writer.event_writer._thread._backlog
        assert backlog.bytes <= 0.05 * 2**20
    (small_disk / "filler").unlink()
    wait_until(lambda: "works again" in caplog.text)
    writer.close()
    read = Run(small_disk / "logs")
    assert read.steps("a") == list(range(201))  # no scalar is lost
    kept = sorted(read.histograms["h"])
    assert kept[-1] == 200
    newest = [step for step in kept if step > 100]
    assert newest == list(range(newest[0], 201))  # the newest histograms, without a gap
    assert f"{200 - len(kept)} values could not be written" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_folder_without_permission_raises_before_first_step(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    code = f"""
import os
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
os.setuid(65534)
try:
    TensorBoardWriter({str(closed / "run")!r}).summary_writer
except OSError as error:
    print(error)
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "cannot write a run to" in done.stdout
    assert "Permission denied" in done.stdout
    assert "choose a log_dir that this user may write" in done.stdout


def test_file_instead_of_folder_raises_before_first_step(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    run = trainer(tmp_path / "out", callbacks=[TbxTrainerCallback("minimal", log_dir=tmp_path / "logs")])
    with pytest.raises(OSError, match=r"cannot write a run to '[^']*logs': there is a file where the folder should be"):
        run.train()
    assert run.state.global_step == 0


def test_missing_store_package_raises_before_first_step(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    run = trainer(tmp_path / "out", callbacks=[TbxTrainerCallback("minimal", log_dir="gs://bucket/run")])
    with pytest.raises(
        OSError, match=r"cannot write a run to 'gs://bucket/run': .*gcsfs.*; run: pip install tbx-callbacks\[gs\]; or"
    ):
        run.train()
    assert run.state.global_step == 0


def test_unknown_store_raises_before_first_step(tmp_path: Path) -> None:
    run = trainer(tmp_path / "out", callbacks=[TbxTrainerCallback("minimal", log_dir="s4://bucket/run")])
    with pytest.raises(OSError, match=r"a remote store must be one that fsspec knows, got s4://: Protocol not known"):
        run.train()
    assert run.state.global_step == 0


@pytest.fixture(autouse=True)
def _warnings_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
