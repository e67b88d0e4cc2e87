"""Tests the files of bad batches, also damaged ones."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks.runs.bad_batches import (
    BadBatch,
    BadRow,
    MicroBatch,
    file_of,
    files_in,
    read,
    read_bad_batches,
    write,
)

ROWS = [
    BadRow("7", 0.5, 1, 0, "a film"),
    BadRow("#00ff", math.inf, 0, 1),
    BadRow("a b", -math.inf),
    BadRow("c", predicted=2),
    BadRow("ü\n\u202e", text="\ud800x".encode("utf-8", "replace").decode()),
]
BATCH = BadBatch(41, 3, ["gradients are not finite"], [MicroBatch(1, 2.5, ROWS), MicroBatch(2, None, [])])


def test_write_then_read_returns_batch(tmp_path: Path) -> None:
    path = file_of(str(tmp_path), 41, 3)
    write(path, BATCH)
    assert read(path) == BATCH
    assert files_in(tmp_path) == {41: {3: path}}
    assert os.listdir(tmp_path / "bad_batches") == ["step00000041.rank3.json"]


def test_write_nan_loss_read_back(tmp_path: Path) -> None:
    path = file_of(str(tmp_path), 1, 0)
    write(path, BadBatch(1, 0, ["x"], [MicroBatch(1, math.nan, [BadRow("a", math.nan)])]))
    json.loads(Path(path).read_text(), parse_constant=lambda name: pytest.fail(name))  # as strict parsers want it
    (micro_batch,) = read(path).micro_batches
    assert micro_batch.loss is not None
    assert math.isnan(micro_batch.loss)
    assert math.isnan(micro_batch.rows[0].loss or 0.0)


def test_files_in_sorted_by_step_and_rank(tmp_path: Path) -> None:
    for step, rank in ((100_000_000, 0), (5, 10), (5, 2), (12, 0)):
        write(file_of(str(tmp_path), step, rank), BATCH)
    for name in ("step1.rank0.json.9.tmp", "stepx.rank0.json", "step00000003.rank-1.json", "notes.txt"):
        (tmp_path / "bad_batches" / name).touch()
    assert [(step, list(ranks)) for step, ranks in files_in(tmp_path).items()] == [
        (5, [2, 10]), (12, [0]), (100_000_000, [0]),
    ]  # fmt: skip
    assert files_in("s3://bucket/run") == {}
    assert files_in(tmp_path / "absent") == {}


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", "null", "[" * 10_000, '{"step": 1}', "\x00",
        '{"step": "x", "rank": 0, "reasons": [], "micro_batches": []}',
        '{"step": 1, "rank": 0, "reasons": 3, "micro_batches": []}',
        '{"step": 1, "rank": 0, "reasons": [], "micro_batches": [{"number": 1, "loss": "big", "rows": []}]}',
        '{"step": 1, "rank": 0, "reasons": [], "micro_batches": [{"number": 1, "loss": 1, "rows": [{}]}]}',
        '{"step": 1, "rank": 0, "reasons": [], "micro_batches": [{"number": 1, "loss": 1, "rows": [3]}]}',
        '{"step": 1e999, "rank": 0, "reasons": [], "micro_batches": []}',
    ],
)  # fmt: skip
def test_read_damaged_file_is_value_error(tmp_path: Path, content: str) -> None:
    write(file_of(str(tmp_path), 2, 0), BATCH)
    path = Path(file_of(str(tmp_path), 1, 0))
    path.write_text(content)
    with pytest.raises(ValueError, match="it holds no batch of a training"):
        read(str(path))
    assert read_bad_batches(tmp_path) == [BATCH]


@pytest.mark.parametrize("place", ["absent/x", "."])
def test_write_without_folder_leaves_nothing(tmp_path: Path, place: str) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        write(str(blocked / place / "a.json"), BATCH)
    assert os.listdir(tmp_path) == ["file"]


def test_write_replaces_file_at_once(tmp_path: Path) -> None:
    path = file_of(str(tmp_path), 41, 3)
    write(path, BATCH)
    hostile: Any = BadBatch(41, 3, [object()], [])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        write(path, hostile)
    assert read(path) == BATCH
    assert os.listdir(tmp_path / "bad_batches") == ["step00000041.rank3.json"]
