"""Tests that growing logs are noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks.runs.growth import sizes


def test_sizes_change_with_logs_only(tmp_path: Path) -> None:
    log = tmp_path / "a" / "metrics.jsonl"
    log.parent.mkdir()
    before = sizes([str(tmp_path)])
    (tmp_path / "a" / "notes.txt").write_text("x")
    assert sizes([str(tmp_path)]) == before == {}
    log.write_text("{}\n")
    (tmp_path / "a" / "gone.jsonl").symlink_to("nothing")
    assert list(sizes([str(tmp_path)])) == [str(log)]
    assert sizes([str(log)]) == sizes([str(tmp_path)])


def test_sizes_without_folder_or_of_file_are_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text("{}\n")
    assert sizes([str(tmp_path / "later")]) == {}
    assert list(sizes([str(log)])) == [str(log)]
    assert caplog.text == ""  # it is asked again and again


def test_sizes_of_remote_folder_always_change() -> None:
    assert sizes(["s3://bucket/runs"]) != sizes(["s3://bucket/runs"])
