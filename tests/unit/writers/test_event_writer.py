"""Tests the contents of the disk after each action of the event writer."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from tbx_callbacks.writers.event_writer import EventWriter
from tbx_callbacks.writers.summary_writer import SummaryWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.events import scalar_event
from tests.helpers.processes import python
from tests.helpers.runs import Run, files
from tests.helpers.waiting import wait_until

# Each child is forked before it has a writer, so that all children share one import of torch.
ENDINGS = """
import os, sys
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

for folder, ending in zip(sys.argv[1::2], sys.argv[2::2]):
    child = os.fork()
    if child == 0:
        writer = TensorBoardWriter(folder)
        for step in range(1, 201):
            writer.write(step, {"a": float(step), "b": 2.0 * step})
        exec(ending)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

writer = TensorBoardWriter("forked")
writer.write(1, {"parent": 1.0})
child = os.fork()
if child == 0:
    writer.write(2, {"child": 1.0}); writer.flush(); writer.close(); os._exit(0)
os.waitpid(child, 0)
writer.write(3, {"parent": 3.0})
writer.close()
"""
WAYS_TO_END = {
    "flush": ("writer.flush(); os._exit(3)", 3),
    "sys.exit": ("sys.exit(3)", 3),
    "close": ("writer.close(); os._exit(3)", 3),
    "exception": ("raise ZeroDivisionError", 1),
}
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The process that wrote, and its folders: one for each kind of end and one of a forked child."""
    folder = tmp_path_factory.mktemp("ended")
    arguments = [part for name, (ending, _) in WAYS_TO_END.items() for part in (name, ending)]
    done = python("-W", "ignore::DeprecationWarning", "-c", ENDINGS, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("variant", WAYS_TO_END)
def test_event_writer_process_end_loses_nothing(
    ended: tuple[Path, subprocess.CompletedProcess[str]], variant: str
) -> None:
    folder, done = ended
    assert dict(zip(WAYS_TO_END, map(int, done.stdout.split()), strict=True))[variant] == WAYS_TO_END[variant][1]
    assert done.stderr.count("ZeroDivisionError") == 1
    read = Run(folder / variant)
    assert read.scalars["a"] == [(step, float(step)) for step in range(1, 201)]
    assert read.steps("b") == list(range(1, 201))


@needs_fork
def test_event_writer_forked_child_writes_nothing(ended: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = ended
    assert Run(folder / "forked").scalars == {"parent": [(1, 1.0), (3, 3.0)]}
    assert len(files(folder / "forked")) == 1


def test_event_writer_writes_without_flush(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"a": 1.0})
    wait_until(lambda: Run(tmp_path).scalars)
    assert Run(tmp_path).scalars == {"a": [(1, 1.0)]}
    writer.close()


def test_event_writer_after_close_goes_on(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in range(1, 5):
        writer.write(step, {"a": float(step)})
        writer.close()
    assert len(files(tmp_path)) == 1
    assert Run(tmp_path).at("a") == {step: float(step) for step in range(1, 5)}


def append(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


def replace_file(file: Path) -> None:
    content = file.read_bytes()
    file.rename(file.with_name("kept"))
    file.write_bytes(content)


def link_file(file: Path) -> None:
    file.rename(file.with_name("kept"))
    file.symlink_to("kept")


CHANGES: dict[str, Callable[[Path], object]] = {
    "deleted": lambda file: file.unlink(),
    "moved": lambda file: file.rename(file.with_name("kept")),
    "replaced": replace_file,
    "linked": link_file,
    "longer": append,
    "shorter": lambda file: os.truncate(file, 30),
    "not the last": lambda file: file.with_name("events.out.tfevents.9999999999.host").touch(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_event_writer_closed_file_changed_new_one(tmp_path: Path, change: str) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"a": 1.0})
    writer.close()
    CHANGES[change](files(tmp_path)[0])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    writer.write(2, {"a": 2.0})
    writer.close()
    after = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 1
    assert Run(tmp_path).at("a")[2] == 2.0


@pytest.mark.parametrize("name", ["events.out.tfevents.0000000001.host", "notes.txt", "tfevents", "checkpoint-9"])
def test_event_writer_goes_on_beside_other_files(tmp_path: Path, name: str) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"a": 1.0})
    writer.close()
    (tmp_path / name).touch()
    writer.write(2, {"a": 2.0})
    writer.close()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_event_writer_forked_child_opens_own_file(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"a": 1.0})
    writer.close()
    child = os.fork()
    if child == 0:
        writer.write(2, {"a": 2.0})
        writer.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(files(tmp_path)) == 2
    assert Run(tmp_path).at("a") == {1: 1.0, 2: 2.0}


def test_summary_writer_purge_step_hides_steps(tmp_path: Path) -> None:
    for purge, steps in ((None, range(10)), (5, range(5, 8))):
        writer = SummaryWriter(str(tmp_path), purge_step=purge)
        for step in steps:
            writer.add_scalar("a", float(step), step)
        writer.close()
    assert Run(tmp_path).steps("a") == list(range(8))


class StuckFile:
    """A file that blocks or fails on writes, until the test repairs it."""

    path, volatile = "stuck", False

    def __init__(self) -> None:
        self.works = False
        self.written = self.values = 0

    def write(self, records: Sequence[bytes]) -> int:
        if not self.works:
            raise OSError("stuck")
        self.written += sum(map(len, records))
        self.values += sum(len(Event.FromString(record[12:-4]).summary.value) for record in records)
        return len(records)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass

    def release_in_child(self) -> None:
        pass


@pytest.mark.thorough
@pytest.mark.slow
def test_event_writer_backlog_drains_when_disk_works(caplog: pytest.LogCaptureFixture) -> None:
    stuck = StuckFile()
    writer = EventWriter("folder", lambda: stuck, max_mib=32.0)
    for step in range(40_000):
        writer.add_event(scalar_event(step))
    assert writer._thread is not None
    waiting = writer._thread._backlog.bytes
    assert waiting > 4 * 2**20
    stuck.works = True
    writer.close()
    assert stuck.written > waiting
    assert "are lost" not in caplog.text


def test_event_writer_event_larger_than_memory_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = TensorBoardWriter(tmp_path, max_mib=0.001)
    writer.write(1, {f"tag/{n}": 1.0 for n in range(500)})
    writer.flush()
    writer.write(2, {"small": 1.0})
    writer.close()
    assert set(Run(tmp_path).scalars) == {"small", *(f"tag/{n}" for n in range(500))}
    assert caplog.text == ""


@pytest.mark.parametrize("repaired", [False, True])
def test_event_writer_large_event_without_disk_announced(caplog: pytest.LogCaptureFixture, repaired: bool) -> None:
    stuck = StuckFile()
    writer = EventWriter("folder", lambda: stuck, max_mib=0.001)
    writer.add_event(scalar_event(1, 500))
    assert not writer.flush()
    assert "are dropped" not in caplog.text
    stuck.works = repaired
    for step in range(2, 100):
        writer.add_event(scalar_event(step, 5))
        if step == 2 and not repaired:
            assert "old values for folder are dropped: " in caplog.text
        if repaired:
            assert writer.flush()
    writer.close()
    assert caplog.text.count("are dropped") == (0 if repaired and "are lost" not in caplog.text else 1)
    lost = sum(int(word) for word in re.findall(r"(\d+) values could not be written", caplog.text))
    assert stuck.values + lost == 500 + 98 * 5


class Unserializable:
    """An event that protobuf cannot serialize, such as one of more than 2 GiB."""

    step = 7
    summary = scalar_event(7, 3).summary

    def ByteSize(self) -> int:  # noqa: N802
        return 10

    def SerializeToString(self) -> bytes:  # noqa: N802
        raise ValueError("Message exceeds maximum protobuf size of 2GB")


def test_event_writer_unserializable_event_alone_lost(caplog: pytest.LogCaptureFixture) -> None:
    stuck = StuckFile()
    writer = EventWriter("folder", lambda: stuck)
    for event in (scalar_event(6), Unserializable(), scalar_event(8), Unserializable()):
        writer.add_event(event)
    stuck.works = True
    writer.close()
    assert stuck.values == 40
    assert "step 7 of folder is lost: its 3 values cannot be written: Message exceeds" in caplog.text
    assert "6 values could not be written to folder and are lost" in caplog.text


@pytest.mark.slow
def test_event_writer_event_above_file_limit_lost(tmp_path: Path) -> None:
    code = (
        "import logging, resource, sys\n"
        "from tbx_callbacks.writers import TensorBoardWriter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "writer = TensorBoardWriter(sys.argv[1])\n"
        "for step in range(1, 301):\n"
        "    writer.write(step, {'a': float(step)})\n"
        "    if step in (1, 150):\n"
        "        writer.write(step, {f'large/{n}': 1.0 for n in range(1000)})\n"
        "writer.close()\n"
    )
    done = python("-c", code, tmp_path)
    assert done.returncode == 0
    assert Run(tmp_path).scalars == {"a": [(step, float(step)) for step in range(1, 301)]}
    assert done.stderr.count("is lost: its 1000 values cannot be written: [Errno 27] File too large") == 1
    assert "2000 values could not be written to" in done.stderr


def test_event_writer_hanging_store_close_returns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import threading

    monkeypatch.setattr("tbx_callbacks.writers.writer_thread._CLOSE_SECS", 0.2)
    released = threading.Event()

    class HangingFile(StuckFile):
        def write(self, records: Sequence[bytes]) -> int:
            released.wait(60)
            return len(records)

    writer = EventWriter("folder", HangingFile)
    writer.add_event(scalar_event(1))
    writer.close()  # returns
    assert not released.is_set()
    released.set()
    assert "20 values could not be written to folder and are lost" in caplog.text
