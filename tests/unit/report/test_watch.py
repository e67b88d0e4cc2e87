"""Tests reports that are rewritten while runs grow."""

from __future__ import annotations

from pathlib import Path

from tbx_callbacks.report.watch import follow
from tbx_callbacks.runs.reader import UnreadableError
from tests.helpers.report_runs import trained


def test_follow_writes_after_files_have_grown(tmp_path: Path) -> None:
    written: list[int] = []

    def write() -> Path:
        if not any(tmp_path.rglob("*tfevents*")):
            raise UnreadableError("nothing yet")
        written.append(1)
        return tmp_path

    def wait() -> bool:
        written_at_wait.append(len(written))
        if len(written_at_wait) == 2:
            trained(tmp_path / "run", steps=4)
        return len(written_at_wait) == 4

    written_at_wait: list[int] = []
    reports = list(follow([str(tmp_path)], write, wait))
    assert written_at_wait == [0, 0, 1, 1]  # waits, waits, writes, waits again
    assert [type(one) for one in reports] == [UnreadableError, type(tmp_path)]
