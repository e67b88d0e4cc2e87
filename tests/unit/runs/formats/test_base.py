"""Tests that every format keeps the promises of the interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks.runs.formats import FORMATS, LogFormat, UnreadableError


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.files)
def test_log_format_nothing_found_in_empty_folder(tmp_path: Path, known: LogFormat) -> None:
    assert known.find(str(tmp_path), [], []) == {}
    other = tmp_path / "other.txt"
    other.write_text("no log\n")
    assert not known.accepts(str(other))


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.files)
def test_log_format_absent_log_is_unreadable(tmp_path: Path, known: LogFormat) -> None:
    with pytest.raises(UnreadableError):
        known.read(str(tmp_path / "absent"))
