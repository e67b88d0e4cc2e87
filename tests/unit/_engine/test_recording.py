"""Tests where rows are recorded, and which options of the set hold."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tbx_callbacks import load_config
from tbx_callbacks._engine.recording import Recording
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.outputs import Predictions
from tbx_callbacks.runs.bad_batches import read_bad_batches
from tbx_callbacks.runs.examples import read_examples


class CannotBeCopied:
    def decode(self, ids: Any) -> str:
        return "text"

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("it holds a lock")


def recording(folder: str | None, *metrics: Any, tokenizer: Any = None, **options: Any) -> Recording:
    model = torch.nn.Linear(2, 2)
    info = TrainingInfo(model, torch.optim.SGD(model.parameters()), 1, tokenizer=tokenizer)
    items = load_config({"metrics": list(metrics) or [{"examples": options}]}).items
    return Recording(items, info, Predictions(), None, folder=folder, step=0, warns=True)


LOGITS, LABELS = torch.rand(3, 2), torch.tensor([0, 1, 1])
BATCH = {"input_ids": torch.arange(6).view(3, 2), "source": LABELS, "idx": ["a", "b", "c"]}


def test_recording_writes_rows_of_first_pass(tmp_path: Path) -> None:
    made = recording(str(tmp_path))
    made.expect(BATCH, LABELS, 3)
    made.add_outputs(1, {"loss_aux": torch.tensor(1.0)}, None)  # no logits: the rows belong to a later pass
    made.add_outputs(1, LOGITS, LABELS)
    made.add_outputs(1, LOGITS, LABELS)  # a second pass over the same rows
    made.close()
    table = read_examples(tmp_path)
    assert table is not None
    assert list(table.keys) == ["a", "b", "c"]
    assert table.seen.tolist() == [1, 1, 1]


@pytest.mark.parametrize("folder", ["s3://bucket/run", None])
def test_recording_without_local_folder_warns(folder: str | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = recording(folder, {"examples": {"group_by": "source"}}, "bad_batches")
    assert "rows are not recorded: the run's folder is not local; pass a local log_dir" in caplog.text
    assert made.keeper is made.bad_steps is None
    made.expect(BATCH, LABELS, 3)
    made.add_outputs(1, LOGITS, LABELS)
    assert made.examples is not None
    assert made.examples.pop_groups() is not None  # groups need no file
    made.close()


def test_recording_keeps_batches_without_examples(tmp_path: Path) -> None:
    made = recording(str(tmp_path), {"bad_batches": {"spike": None}})
    assert made.examples is None
    assert made.keeper is not None
    made.keeper.begin_step(1)
    made.expect(BATCH, LABELS, 3)
    made.add_outputs(1, LOGITS, LABELS)
    made.keeper.end_batch(torch.tensor(torch.nan))
    made.close()
    (batch,) = read_bad_batches(tmp_path)
    assert [row.key for row in batch.micro_batches[0].rows] == ["a", "b", "c"]
    expected = torch.nn.functional.cross_entropy(LOGITS.double(), LABELS, reduction="none").tolist()
    assert [row.loss for row in batch.micro_batches[0].rows] == pytest.approx(expected, rel=1e-5)
    assert made.bad_steps == 1
    assert read_examples(tmp_path) is None


class Words:
    def decode(self, ids: Any) -> str:
        return "text"


def test_recording_texts_with_tokenizer(tmp_path: Path) -> None:
    for options, texts in (({}, {}), ({"texts": 2}, {"a": "te", "b": "te", "c": "te"})):
        made = recording(str(tmp_path), tokenizer=Words(), **options)
        made.expect(BATCH, LABELS, 3)
        made.add_outputs(1, LOGITS, LABELS)
        made.close()
        table = read_examples(tmp_path)
        assert table is not None
        assert table.texts == texts


def test_recording_tokenizer_that_cannot_be_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        recording(str(tmp_path), tokenizer=CannotBeCopied(), texts=9).close()
    assert "texts of rows are left out: the tokenizer cannot be copied" in caplog.text
