"""Lets each call to the file system that the writer makes fail, with each error, once and for ever."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tbx_callbacks.writers import LogDirError, TensorBoardWriter
from tests.helpers.failing_calls import CALLS, ERRORS, NOTHING, SHORT, TORN, FailingCalls, failing, used_calls
from tests.helpers.handles import left_open, resources
from tests.helpers.runs import Run, files
from tests.helpers.variations import variations

pytestmark = pytest.mark.faults
STEPS = range(1, 6)
TAGS = ("a", "b")


def plain(writer: TensorBoardWriter) -> None:
    """Writes all steps; the last ones without a flush."""
    for step in STEPS:
        writer.write(step, dict.fromkeys(TAGS, float(step)))
        if step < 4:
            writer.flush()


def moved(writer: TensorBoardWriter) -> None:
    """Writes all steps; the file is moved away after the second one."""
    for step in STEPS:
        writer.write(step, dict.fromkeys(TAGS, float(step)))
        writer.flush()
        if step == 2:
            for path in files(writer.log_dir):
                path.rename(path.parent.parent / path.name)


WAYS: dict[str, tuple[Callable[[TensorBoardWriter], None], set[str]]] = {
    # how the steps are written, calls without which nothing can be written
    "plain": (plain, {"write"}),
    "moved": (moved, {"write", "open"}),
}


class Log(logging.Handler):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    @property
    def lost(self) -> int:
        return sum(int(line.split()[0]) for line in self.lines if re.match(r"\d+ values could not be written", line))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    handler, writers = Log(), logging.getLogger("tbx_callbacks.writers")
    writers.addHandler(handler)
    monkeypatch.setattr(writers, "propagate", False)
    yield handler
    writers.removeHandler(handler)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The folder of the runs, each of which syncs several times."""
    return tmp_path


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbx_callbacks.writers.writer_thread._RETRY_SECS", 0.02)


def expect_complete_or_counted(folder: Path, log: Log, *, lost: int | None) -> None:
    """Each step is there once and in order, or its values are counted as lost."""
    scalars = {tag: [] for tag in TAGS}
    for part in (folder.parent, folder):
        for tag, points in (Run(part).scalars if files(part) else {}).items():
            scalars[tag] += points
    found = 0
    for points in scalars.values():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), log.lines
        assert points == [(step, float(step)) for step in steps]
        found += len(steps)
    assert found + log.lost == len(STEPS) * len(TAGS), log.lines
    assert lost in (None, log.lost), log.lines


def run_case(
    folder: Path, way: str, log: Log, fault: FailingCalls, *others: FailingCalls, lossless: bool, flush_secs: float
) -> None:
    log.lines.clear()
    before = resources()
    write, _ = WAYS[way]
    with failing(*others, fault):
        writer = TensorBoardWriter(folder, flush_secs=flush_secs)
        try:
            _ = writer.summary_writer
        except LogDirError:
            assert fault.failed
            assert not files(folder)
        else:
            write(writer)
            writer.close()
            expect_complete_or_counted(folder, log, lost=0 if lossless else None)
    assert not left_open(before)


def run_until_untouched(
    disk: Path, way: str, log: Log, name: str, error: str, torn: int = 0, flush_secs: float = 3600
) -> int:
    """Runs with the first, the second, ... call failing, until there is no such call; returns the number of failures.

    Args:
        torn: number of a write that leaves half of its bytes in the file and fails, in addition; 0 for none.
        flush_secs: 0 syncs after every write, on a thread of its own.
    """
    failures = 0
    for for_ever in (False, True):
        first = failed = 1
        while failed:
            folder = disk / f"{error} {first} {for_ever}" / "run"
            folder.parent.mkdir()
            fault = FailingCalls(name, error, first, for_ever=for_ever)
            others = [FailingCalls("write", TORN, torn, for_ever=False)] if torn else []
            lossless = not for_ever or error == SHORT or name not in WAYS[way][1]
            run_case(folder, way, log, fault, *others, lossless=lossless, flush_secs=flush_secs)
            first, failed, failures = first + 1, fault.failed, failures + fault.failed
    return failures


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", sorted(set(CALLS) - {"pread", "ftruncate", "unlink"}))
def test_writer_any_call_fails_nothing_uncounted(disk: Path, log: Log, name: str, way: str) -> None:
    for error in [*ERRORS, *((SHORT, NOTHING, TORN) if name == "write" else ())]:
        assert run_until_untouched(disk, way, log, name, error)


@pytest.mark.parametrize("way", variations(WAYS, "moved"))
@pytest.mark.parametrize("name", sorted(set(CALLS) - {"write", "unlink", "listdir"}))
def test_writer_torn_write_and_call_fails_nothing_uncounted(disk: Path, log: Log, name: str, way: str) -> None:
    for error in ERRORS:
        assert run_until_untouched(disk, way, log, name, error, torn=3)


@pytest.mark.parametrize("name", ["write", "fsync", "fstat", "stat"])
def test_writer_parallel_sync_call_fails_nothing_uncounted(disk: Path, log: Log, name: str) -> None:
    for error in ERRORS:
        assert run_until_untouched(disk, "plain", log, name, error, flush_secs=0)


@pytest.mark.parametrize("error", ERRORS)
def test_writer_header_and_cleanup_fail_error_kept(disk: Path, error: str) -> None:
    before = resources()
    with (
        failing(FailingCalls("write", error, 1, for_ever=True), FailingCalls("unlink", "EIO", 1, for_ever=True)),
        pytest.raises(LogDirError, match=re.escape(str(ERRORS[error]()))),
    ):
        TensorBoardWriter(disk / "run").write(1, {"a": 1.0})
    assert not left_open(before)


def test_failing_calls_name_every_call(disk: Path, log: Log) -> None:
    with used_calls() as used:
        moved(writer := TensorBoardWriter(disk / "moved" / "run"))
        writer.close()
        with failing(FailingCalls("write", TORN, 3, for_ever=False)):
            plain(writer := TensorBoardWriter(disk / "torn"))
            writer.close()
        with failing(FailingCalls("write", "EIO", 1, for_ever=True)), pytest.raises(LogDirError):
            TensorBoardWriter(disk / "header").write(1, {"a": 1.0})
    assert used == set(CALLS)
