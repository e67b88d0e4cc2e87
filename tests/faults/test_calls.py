"""Lets each call to the file system that the writer makes fail, with each error, once and for ever."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tbx_callbacks.writers import LogDirError, TensorBoardWriter
from tests.helpers.failing_calls import CALLS, ERRORS, NOTHING, SHORT, TORN, FailingCalls, failing
from tests.helpers.handles import resources
from tests.helpers.runs import Run, files

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
    "moved": (moved, {"write", "open", "mkdir"}),
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


def run_case(folder: Path, way: str, log: Log, fault: FailingCalls, *others: FailingCalls, lossless: bool) -> None:
    log.lines.clear()
    before = resources()
    write, _ = WAYS[way]
    with failing(*others, fault):
        writer = TensorBoardWriter(folder, flush_secs=3600)
        try:
            _ = writer.summary_writer
        except LogDirError:
            assert fault.failed
            assert all(path.stat().st_size == 0 or Run(folder) for path in files(folder))
        else:
            write(writer)
            writer.close()
            expect_complete_or_counted(folder, log, lost=0 if lossless else None)
    assert resources() == before


def run_until_untouched(tmp_path: Path, way: str, log: Log, name: str, error: str, *others: FailingCalls) -> int:
    """Runs with the first, the second, ... call failing, until there is no such call; returns the number of runs."""
    runs = 0
    for for_ever in (False, True):
        first = fails = 1
        while fails:
            folder = tmp_path / f"{error} {first} {for_ever}" / "run"
            folder.parent.mkdir()
            fault = FailingCalls(name, error, first, for_ever=for_ever)
            lossless = not for_ever or error == SHORT or name not in WAYS[way][1]
            run_case(folder, way, log, fault, *others, lossless=lossless)
            first, fails, runs = first + 1, fault.failed, runs + 1
    return runs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CALLS)
def test_writer_any_call_fails_nothing_uncounted(tmp_path: Path, log: Log, name: str, way: str) -> None:
    faults = [*ERRORS, *((SHORT, NOTHING, TORN) if name == "write" else ())]
    for error in faults:
        runs = run_until_untouched(tmp_path, way, log, name, error)
        print(name, way, error, runs)
