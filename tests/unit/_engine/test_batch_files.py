"""Tests the files of bad steps: their rows, their limit, resuming, and a disk that fails."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tbx_callbacks._engine.batch_files import BatchFiles
from tbx_callbacks._engine.batch_keeper import BadStep, KeptMicroBatch
from tbx_callbacks._engine.row_texts import RowTexts
from tbx_callbacks._model.examples import row_losses
from tbx_callbacks._model.rows import fingerprints, unread_rows
from tbx_callbacks.runs.bad_batches import BadRow, files_in, read_bad_batches

BATCH = {"input_ids": torch.tensor([[5, 6, 0], [7, 8, 9]]), "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}


class Words:
    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        return " ".join(f"w{number}" for number in ids)


def bad_step(step: int, batch: Any = BATCH, *, with_results: bool = True) -> BadStep:
    results = row_losses(torch.tensor([[2.0, 0.0], [0.0, math.inf]]), torch.tensor([1, -100])) if with_results else None
    each = KeptMicroBatch(1, torch.tensor(math.nan), unread_rows(batch, None, 2), results)
    return BadStep(step, ["the loss of micro-batch 1 is nan"], [each, KeptMicroBatch(2)], [math.nan, None])


def test_batch_files_rows_with_losses_and_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = BatchFiles(str(tmp_path), 1, limit=5, texts=RowTexts(Words(), 50))
    with caplog.at_level(logging.WARNING):
        files.keep(bad_step(7))
        files.close(5)
    (batch,) = read_bad_batches(tmp_path)
    assert (batch.step, batch.rank, batch.reasons) == (7, 1, ["the loss of micro-batch 1 is nan"])
    first, second = batch.micro_batches
    found = fingerprints(BATCH, None, 2)
    assert found is not None
    keys = [f"#{number & (1 << 64) - 1:016x}" for number in found.tolist()]
    loss = first.rows[0].loss
    assert first.rows == [BadRow(keys[0], loss, 1, 0, "w5 w6"), BadRow(keys[1], None, None, 1, "w7 w8 w9")]
    assert loss == pytest.approx(math.log(1 + math.exp(2)), rel=1e-5)
    assert (second.number, second.loss, second.rows) == (2, None, [])
    assert (
        f"the batch of step 7 is kept, because the loss of micro-batch 1 is nan; see: tbx-callbacks batch {tmp_path} 7"
        in (caplog.text)
    )


@pytest.mark.parametrize(
    ("batch", "with_results", "keys"),
    [
        ({**BATCH, "idx": torch.tensor([3, 4])}, True, ["3", "4"]),
        ({**BATCH, "idx": torch.tensor([3, 4])}, False, ["3", "4"]),
        ({"text": ["a", "b"]}, True, ["row 1", "row 2"]),
        ({"text": ["a", "b"]}, False, []),
        (None, False, []),
    ],
)
def test_batch_files_rows_as_far_as_known(tmp_path: Path, batch: Any, with_results: bool, keys: list[str]) -> None:
    files = BatchFiles(str(tmp_path), 0, limit=5)
    files.keep(bad_step(7, batch, with_results=with_results))
    files.close(5)
    (kept,) = read_bad_batches(tmp_path)
    rows = kept.micro_batches[0].rows
    assert [row.key for row in rows] == keys
    assert [row.loss is not None for row in rows] == ([True, False] if with_results else [False] * len(keys))
    assert not any(row.text for row in rows)


def test_batch_files_limit_counts_resumed_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = BatchFiles(str(tmp_path), 0, limit=3)
    for step in (1, 2):
        files.keep(bad_step(step))
    files.close(5)
    again = BatchFiles(str(tmp_path), 0, limit=3, step=1)  # step 2 is trained again
    assert list(files_in(tmp_path)) == [1]
    with caplog.at_level(logging.WARNING):
        for step in range(2, 16, 2):
            again.keep(bad_step(step))
        again.close(5)
    assert list(files_in(tmp_path)) == [1, 2, 4, 6]
    assert again.found == 8  # one before the resume
    assert caplog.text.count("further batches of such steps are not kept: 3 are; raise `keep`") == 1


def test_batch_files_spikes_leave_room_for_nan(tmp_path: Path) -> None:
    files = BatchFiles(str(tmp_path), 0, limit=2)
    for step in range(1, 6):
        files.keep(dataclasses.replace(bad_step(step), reasons=["the loss is a spike"], is_finite=True))
    files.keep(bad_step(9))
    files.close(5)
    assert list(files_in(tmp_path)) == [1, 2, 9]
    assert files.found == 6


def test_batch_files_steps_in_a_row_limited(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = BatchFiles(str(tmp_path), 0, limit=20)
    with caplog.at_level(logging.WARNING):
        files.keep(dataclasses.replace(bad_step(3), reasons=["the loss is a spike"], is_finite=True))
        for step in [*range(5, 12), 20, 21]:
            files.keep(bad_step(step))
    files.close(5)
    assert list(files_in(tmp_path)) == [3, 5, 6, 7, 20, 21]
    assert files.found == 10
    assert [record.getMessage().partition(", because")[0] for record in caplog.records] == [
        "the batch of step 3 is kept",
        "the batch of step 5 is kept",
    ]


def test_batch_files_of_absent_ranks_removed(tmp_path: Path) -> None:
    for rank in range(3):
        files = BatchFiles(str(tmp_path), rank, limit=9, ranks=3)
        for step in (1, 5):
            files.keep(bad_step(step))
        files.close(5)
    BatchFiles(str(tmp_path), 0, limit=9, ranks=2, step=3).close(5)
    assert {step: list(ranks) for step, ranks in files_in(tmp_path).items()} == {1: [0, 1, 2], 5: [1]}


def test_batch_files_disk_that_fails_warned_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad_batches").touch()  # a file in place of the folder
    files = BatchFiles(str(tmp_path), 0, limit=9)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            files.keep(bad_step(step))
        files.close(5)
    assert caplog.text.count("the batch of a bad step is not kept") == 1
