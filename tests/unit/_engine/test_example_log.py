"""Tests the file of rows: its content, its limit, resuming, and a disk that fails."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tbx_callbacks._engine.example_log import ExampleLog
from tbx_callbacks._model.examples import ExampleBatch, row_losses
from tbx_callbacks._model.rows import Rows
from tbx_callbacks.runs.examples import file_of, read_examples
from tbx_callbacks.runs.json_lines import read


def batches(*steps: int, keys: Any = None, rows: int = 4) -> list[ExampleBatch]:
    made = []
    for step in steps:
        logits = torch.randn(rows, 3, generator=torch.Generator().manual_seed(step))
        labels = torch.tensor([0, 1, 2, -100] * (rows // 4))
        own = torch.arange(rows) if keys is None else keys
        made.append(ExampleBatch(step, Rows(own, are_ids=keys is None), row_losses(logits, labels)))
    return made


def log(folder: Path, rank: int = 0, *, step: int = 0, limit: int = 1 << 20, ranks: int = 1) -> ExampleLog:
    return ExampleLog(str(folder), rank, ranks=ranks, step=step, limit=limit)


def lines(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    return list(read(file_of(str(folder), rank), lambda: pytest.fail("a line cannot be read")))


def test_example_log_writes_rows_with_label(tmp_path: Path) -> None:
    example_log = log(tmp_path)
    example_log.record(batches(1, 2))
    example_log.record(batches(3))
    example_log.close(5)
    written = lines(tmp_path)
    assert [line["step"] for line in written] == [1, 2, 3]
    for line in written:
        (batch,) = batches(line["step"])
        assert line["rows"] == ["0", "1", "2"]
        assert line["losses"] == pytest.approx(batch.results.losses[:3].tolist(), rel=1e-4)
        assert line["labels"] == [0, 1, 2]
        assert line["predicted"] == batch.results.predicted[:3].tolist()
    assert not [thread for thread in threading.enumerate() if "examples" in thread.name]


DIGEST = hashlib.sha256(b"b" * 300).hexdigest()[:16]


@pytest.mark.parametrize(
    ("keys", "written"),
    [
        (torch.tensor([-1, 2**62 + 1, -(2**63), 5]), ["#ffffffffffffffff", "#4000000000000001", "#8000000000000000"]),
        (("##a", "b" * 300, "ü", "d"), ["id ##a", f"{'b' * 100}~{DIGEST}", "ü"]),
    ],
)
def test_example_log_keys_exact(tmp_path: Path, keys: Any, written: list[str]) -> None:
    example_log = log(tmp_path)
    example_log.record(batches(1, keys=keys))
    example_log.close(5)
    assert lines(tmp_path)[0]["rows"] == written


def test_example_log_ids_exact(tmp_path: Path) -> None:
    rows = Rows(torch.tensor([-1, 2**62 + 1, -(2**63), 5]), are_ids=True)
    (batch,) = batches(1)
    example_log = log(tmp_path)
    example_log.record([ExampleBatch(1, rows, batch.results)])
    example_log.close(5)
    assert lines(tmp_path)[0]["rows"] == ["-1", str(2**62 + 1), str(-(2**63))]


def test_example_log_resumed_counts_no_step_twice(tmp_path: Path) -> None:
    first = log(tmp_path)
    first.record(batches(*range(1, 11)))
    first.close(5)
    second = log(tmp_path, step=6)
    second.record(batches(*range(7, 13)))
    second.close(5)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 13))
    table = read_examples(tmp_path)
    assert table is not None
    assert table.seen.tolist() == [12, 12, 12]


def test_example_log_rank_zero_cuts_absent_ranks(tmp_path: Path) -> None:
    for rank in range(4):
        each = log(tmp_path, rank, ranks=4)
        each.record(batches(1, 2, 3))
        each.close(5)
    for rank in (1, 0):
        log(tmp_path, rank, ranks=2, step=2).close(5)
    assert [len(lines(tmp_path, rank)) for rank in range(4)] == [2, 2, 2, 2]


def test_example_log_new_run_removes_old_rows(tmp_path: Path) -> None:
    for step in (1, 2):
        example_log = log(tmp_path)
        example_log.record(batches(step))
        example_log.close(5)
    assert [line["step"] for line in lines(tmp_path)] == [2]


def test_example_log_stops_at_limit_with_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    example_log = log(tmp_path, limit=1000)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 41):
            example_log.record(batches(step))
        example_log.close(5)
    written = len(lines(tmp_path))
    assert 5 < written < 40
    assert os.path.getsize(file_of(str(tmp_path), 0)) <= 1000
    assert caplog.text.count("has reached limit_mib; raise it") == 1
    assert f"rows of {40 - written} micro-batches were not written" in caplog.text


def test_example_log_disk_that_fails_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    example_log, path = log(tmp_path), Path(file_of(str(tmp_path), 0))
    with caplog.at_level(logging.WARNING):
        example_log._worker.drain(5)
        path.mkdir()  # nothing can be appended to a folder
        example_log.record(batches(1))
        example_log.record(batches(2))
        example_log._worker.drain(5)
        path.rmdir()
        example_log.record(batches(3))
        example_log.close(5)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert caplog.text.count("rows of examples wait in memory") == 1
    assert "were not written" not in caplog.text


def test_example_log_disk_that_fails_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    example_log = log(tmp_path / "absent")
    with caplog.at_level(logging.WARNING):
        example_log.record(batches(1, 2))
        example_log.close(5)
    assert "rows of 2 micro-batches were not written" in caplog.text


def test_example_log_slow_disk_no_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    example_log, released = log(tmp_path), threading.Event()
    example_log._worker.drain(5)
    example_log._worker.submit(lambda: released.wait(30))  # a write that hangs
    with caplog.at_level(logging.WARNING):
        for step in range(1, 131):
            example_log.record(batches(step))
        released.set()
        example_log.close(20)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 100))
    assert caplog.text.count("the file is written too slowly") == 1


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("ids_first", [True, False])
def test_example_log_resumed_with_other_keys_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ids_first: bool, rank: int
) -> None:
    ids, fingerprints = batches(1, 2), batches(1, 2, keys=torch.arange(4))
    before, now = (ids, fingerprints) if ids_first else (fingerprints, ids)
    first = log(tmp_path)
    first.record(before)
    first.close(5)
    kept = lines(tmp_path)
    resumed = log(tmp_path, rank, step=2, ranks=2)
    resumed.record(now)
    resumed.record(now)
    resumed.close(5)
    assert lines(tmp_path) == kept
    assert not os.path.exists(file_of(str(tmp_path), 1))
    kinds = ("fingerprints", "ids") if ids_first else ("ids", "fingerprints")
    assert caplog.messages == [
        f"rows are left out of examples: they have {kinds[0]} now, and {kinds[1]} before in"
        f" {tmp_path}; pass the columns as before, or use a new log_dir"
    ]


def test_example_log_restarted_with_other_keys_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for rank in (0, 1):
        first = log(tmp_path, rank, ranks=2)
        first.record(batches(1, 2))
        first.close(5)
    again = log(tmp_path, ranks=2)
    again.record(batches(1, keys=torch.arange(4)))
    again.close(5)
    assert [line["rows"] for line in lines(tmp_path)] == [[f"#{n:016x}" for n in range(3)]]
    assert not caplog.messages


def test_example_log_resumed_with_same_keys_continues(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (0, 1):
        part = log(tmp_path, step=step)
        part.record(batches(step + 1, keys=torch.arange(4)))
        part.close(5)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert not caplog.messages
