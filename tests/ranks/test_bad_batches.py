"""Tests that each rank keeps its own batch of a step whose gradients are bad on all ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks.runs.bad_batches import read_bad_batches
from tbx_callbacks.runs.examples import ExampleTable, read_examples
from tests.helpers.launch import launch
from tests.helpers.runs import Run, files

SCRIPT = Path(__file__).parent / "scripts" / "train_bad_batches.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs")
    return folder, launch(SCRIPT, folder, ranks=2)


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "hsdp"])
def test_bad_batches_each_rank_keeps_own_rows(trained: tuple[Path, str], kind: str) -> None:
    folder = trained[0] / kind
    first, second = read_bad_batches(folder)
    assert [(batch.step, batch.rank) for batch in (first, second)] == [(3, 0), (3, 1)]
    assert list(first.reasons) == ["gradients are not finite"]  # its own loss is fine
    assert list(second.reasons) == ["the loss of micro-batch 1 is nan", "gradients are not finite"]
    assert [int(row.key) for row in first.micro_batches[0].rows] == [16, 18, 20, 22]
    assert [int(row.key) for row in second.micro_batches[0].rows] == [17, 19, 21, 23]
    assert len(files(folder)) == 1
    assert Run(folder).at("bad_batches/steps")[4] == 1


def test_bad_batches_tensor_parallel_ranks_keep_same_rows(trained: tuple[Path, str]) -> None:
    first, second = read_bad_batches(trained[0] / "tp")
    assert [(batch.step, batch.rank) for batch in (first, second)] == [(3, 0), (3, 1)]
    assert (
        list(first.reasons)
        == list(second.reasons)
        == [
            "the loss of micro-batch 1 is nan",
            "gradients are not finite",
        ]
    )
    assert first.micro_batches[0].rows == second.micro_batches[0].rows
    assert [int(row.key) for row in first.micro_batches[0].rows] == [16, 18, 20, 22]


@pytest.mark.parametrize(("kind", "number", "seen"), [("fsdp", 32, 1), ("hsdp", 32, 1), ("tp", 16, 2)])
def test_examples_of_shards_are_rows_of_ranks(trained: tuple[Path, str], kind: str, number: int, seen: int) -> None:
    table = read_examples(trained[0] / kind)
    assert isinstance(table, ExampleTable)
    assert (len(table), set(table.seen.tolist())) == (number, {seen})


def test_bad_batches_only_rank_zero_warns(trained: tuple[Path, str]) -> None:
    assert trained[1].count("the batch of step 3 is kept, because gradients are not finite") == 3  # one for each run
    assert trained[1].count("the batch of step 3 is kept, because the loss of micro-batch 1 is nan") == 1
