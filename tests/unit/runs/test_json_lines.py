"""Tests lines of JSON beside a run: appending, cutting and reading, also of damaged files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tbx_callbacks.runs.json_lines import append, cut, line_of, read, size_of


def steps(path: Path) -> tuple[list[int], int]:
    """The steps of a file's lines, and the number of lines that cannot be read."""
    bad: list[None] = []
    return [fields["step"] for fields in read(str(path), lambda: bad.append(None))], len(bad)


def test_append_adds_lines_that_read_returns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for step in range(1, 6):
        append(str(path), line_of(step, text="a\nb\u2028ü", numbers=[1, None]) + line_of(step))
    assert steps(path) == ([1, 1, 2, 2, 3, 3, 4, 4, 5, 5], 0)
    assert path.read_bytes().count(b"\n") == 10
    assert size_of(str(path)) == path.stat().st_size
    assert size_of(str(tmp_path / "absent")) == 0


@pytest.mark.parametrize("kept", range(1, 30, 4))
def test_append_after_torn_line_starts_new_one(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "rows.jsonl"
    append(str(path), line_of(1, rows=["a", "b"]))
    torn = line_of(2, rows=["a", "b", "c"])[:kept]
    path.write_bytes(path.read_bytes() + torn)
    assert steps(path) == ([1], 0)  # it may still be written
    append(str(path), line_of(3))
    assert steps(path) == ([1, 3], 1)


@pytest.mark.parametrize("step", [0, 1, 3, 9])
def test_cut_removes_later_and_damaged_lines(tmp_path: Path, step: int) -> None:
    path = tmp_path / "rows.jsonl"
    content = b"".join(line_of(n, rows=["x"] * n) for n in (1, 2, 3, 4, 2))
    path.write_bytes(content + b'{"no": 1}\nnoise\n{"step":1,')
    cut(str(path), step)
    assert steps(path) == ([n for n in (1, 2, 3, 4, 2) if n <= step], 0) if step else not path.exists()
    assert os.listdir(tmp_path) == (["rows.jsonl"] if step else [])


def test_cut_absent_file_changes_nothing(tmp_path: Path) -> None:
    cut(str(tmp_path / "rows.jsonl"), 3)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\n", b"[]\n", b'{"step": "1"}\n', b'{"step": true}\n', b'{"rows": []}\n', b"[" * 5000 + b"\n",
        b'{"step": 1e999}\n', b'{"step":' + b"9" * 5000 + b"}\n",
    ],
)  # fmt: skip
def test_read_damaged_line_counted(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line_of(1) + line + line_of(2))
    assert steps(path) == ([1, 2], 1)


def test_append_to_folder_is_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        append(str(tmp_path), line_of(1))
