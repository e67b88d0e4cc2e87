"""Tests the table of training rows against sums row by row, and with damaged files."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbx_callbacks.runs.examples import file_of, files_in, read_examples
from tbx_callbacks.runs.json_lines import append, line_of


def write(folder: Path, rank: int, step: int, **fields: Any) -> None:
    append(file_of(str(folder), rank), line_of(step, **fields))


def test_read_examples_equals_sums_row_by_row(tmp_path: Path) -> None:
    made = np.random.default_rng(0)
    seen: dict[str, list[tuple[int, float, int, int]]] = {}
    for step in range(1, 60):
        for rank in (0, 1):
            keys = [f"r{n}" for n in made.choice(40, 8, replace=False)]
            losses = [round(float(loss), 4) for loss in made.exponential(1, 8)]
            labels, predicted = made.integers(0, 3, 8).tolist(), made.integers(0, 3, 8).tolist()
            write(tmp_path, rank, step, rows=keys, losses=losses, labels=labels, predicted=predicted)
            for row in zip(keys, losses, labels, predicted, strict=True):
                seen.setdefault(row[0], []).append((step, *row[1:]))
    table = read_examples(tmp_path)
    assert table is not None
    assert set(table.keys) == set(seen)
    for index, key in enumerate(table.keys):
        own = seen[key]
        shares = [math.exp(-loss) for _, loss, _, _ in own]
        assert table.seen[index] == len(own)
        assert table.losses[index] == pytest.approx(np.mean([loss for _, loss, _, _ in own]), rel=1e-12)
        assert table.confidence[index] == pytest.approx(np.mean(shares), rel=1e-12)
        assert table.variability[index] == pytest.approx(np.std(shares), abs=1e-12)
        assert table.correctness[index] == np.mean([label == guess for _, _, label, guess in own])
        last = max(step for step, *_ in own)
        assert table.labels[index] in [row[2] for row in own if row[0] == last]
        times = Counter(guess for *_, guess in own)
        assert times[table.predicted[index]] == max(times.values())
    assert np.diff(table.losses[table.hardest()]).max() <= 0


def test_read_examples_infinite_loss_is_hardest(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, rows=["a", "b", "c"], losses=[9.0, None, 1e300], labels=[0, 0, 0], predicted=[0, 0, 0])
    write(tmp_path, 0, 2, rows=["a", "d"], losses=[1.0, None], labels=[0, 0], predicted=[0, 0])
    write(tmp_path, 0, 3, rows=["d"], losses=[0.5], labels=[0], predicted=[0])
    table = read_examples(tmp_path)
    assert table is not None
    assert [table.keys[i] for i in table.hardest()] == ["b", "c", "a", "d"]
    assert table.losses[list(table.keys).index("d")] == 0.5


def test_read_examples_texts_and_groups(tmp_path: Path) -> None:
    write(tmp_path, 3, 1, rows=["a"], losses=[1.0], labels=[0], predicted=[0], groups=["web"], texts={"a": "x" * 9999})
    write(tmp_path, 3, 2, rows=["b"], losses=[1.0], labels=[0], predicted=[0])
    table = read_examples(tmp_path)
    assert table is not None
    assert list(table.groups) == ["web", ""]
    assert len(table.texts["a"]) == 2000


@pytest.mark.parametrize(
    ("shares", "predicted", "is_suspect"),
    [
        ([0.2, 0.1, 0.15], [1, 1, 1], True),
        ([0.2], [1], False),  # seen once
        ([0.2, 0.1, 0.15], [1, 1, 0], True),  # wrong most times
        ([0.2, 0.1, 0.15], [1, 0, 0], False),  # right most times
        ([0.2, 0.1, math.nan, math.nan, math.nan], [1, 1, 0, 0, 0], True),  # NaN says nothing
        ([0.2, math.nan, math.nan], [1, 1, 1], False),  # seen once
        ([0.9, 0.1, 0.01], [0, 1, 1], False),  # changes
        ([0.45, 0.45, 0.45], [1, 1, 1], False),  # undecided
    ],
)
def test_suspects_low_confidence_and_variability(
    tmp_path: Path, shares: list[float], predicted: list[int], is_suspect: bool
) -> None:
    for step, (share, guess) in enumerate(zip(shares, predicted, strict=True), 1):
        write(
            tmp_path,
            0,
            step,
            rows=["a"],
            losses=[None if math.isnan(share) else -math.log(share)],
            labels=[0],
            predicted=[guess],
        )
    table = read_examples(tmp_path)
    assert table is not None
    assert bool(len(table.suspects())) == is_suspect


GOOD = {"rows": ["a"], "losses": [1.0], "labels": [0], "predicted": [1]}


@pytest.mark.parametrize(
    "fields",
    [
        {**GOOD, "rows": ["a", "b"]},
        {**GOOD, "rows": [1]},
        {**GOOD, "losses": ["1"]},
        {**GOOD, "losses": {"a": 1}},
        {**GOOD, "labels": [0.5]},
        {**GOOD, "labels": [True]},
        {**GOOD, "predicted": [10**40]},
        {},
    ],
)
def test_read_examples_damaged_line_counted(tmp_path: Path, fields: dict[str, Any]) -> None:
    write(tmp_path, 0, 1, **GOOD)
    write(tmp_path, 0, 2, **fields)
    table = read_examples(tmp_path)
    assert table is not None
    assert list(table.keys) == ["a"]
    assert table.seen.tolist() == [1]
    assert table.left_out == ("examples.rank0.jsonl: 1 lines cannot be read",)


@pytest.mark.parametrize("loss", [10**400, -5.0, 0, 1e308])
def test_read_examples_absurd_loss_no_error(tmp_path: Path, loss: Any) -> None:
    write(tmp_path, 0, 1, **{**GOOD, "losses": [loss]}, groups=[None], texts={"a": 1})
    assert read_examples(tmp_path) is not None


def test_read_examples_without_files_none(tmp_path: Path) -> None:
    assert read_examples(tmp_path) is None
    (tmp_path / "examples.rank0.jsonl").mkdir()
    (tmp_path / "examples.rankx.jsonl").touch()
    assert read_examples(tmp_path) is None
    assert list(files_in(str(tmp_path))) == [0]
    assert files_in("s3://bucket/run") == {}
