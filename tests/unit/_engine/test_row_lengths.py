"""Tests the counts of padding, and of what sorted batches would save, against naive ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tbx_callbacks._engine.row_lengths import RowLengths


def mask(lengths: Sequence[int], width: int | None = None, *, left: bool = False) -> Tensor:
    width = max(lengths) if width is None else width
    rows = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[width - length :] = 1 if left else 0
        if not left:
            row[:length] = 1
    return rows


def sorted_tokens(batches: Sequence[Sequence[int]]) -> int:
    """The tokens of the rows in batches of the same sizes, largest batches and longest rows first."""
    rows, total = sorted((length for batch in batches for length in batch), reverse=True), 0
    for size in sorted(map(len, batches)):
        total += size * rows[0]
        rows = rows[size:]
    return total


@pytest.mark.parametrize(
    "batches",
    [
        [[3, 9], [9, 3], [3, 3]],
        [[5, 1, 2, 8], [7, 7, 7, 7], [1, 1]],
        [[4]],
        [[2, 2], [2, 2]],
        [[1, 2, 3], [4, 5], [6]],
    ],
)
@pytest.mark.parametrize("left", [False, True])
def test_row_lengths_of_batches_exact(batches: list[list[int]], left: bool) -> None:
    lengths = RowLengths(limit=5)
    for batch in batches:
        lengths.add([mask(batch, left=left)])
    found = lengths.take()
    assert found is not None
    assert found.sorted is not None
    assert found.at_limit is not None
    assert int(found.kept) == sum(map(sum, batches))
    assert found.padded == sum(len(batch) * max(batch) for batch in batches)
    assert int(found.sorted) == sorted_tokens(batches)
    assert (found.rows, int(found.at_limit)) == (
        sum(map(len, batches)),
        sum(length >= 5 for batch in batches for length in batch),
    )


def test_row_lengths_fixed_width_counts_as_padding() -> None:
    lengths = RowLengths()
    lengths.add([mask([2, 3], width=10).bool()])
    found = lengths.take()
    assert found is not None
    assert (int(found.kept), found.padded, int(found.sorted or 0), found.at_limit) == (5, 20, 6, None)


def test_row_lengths_begin_anew_at_each_point() -> None:
    lengths = RowLengths()
    lengths.add([mask([1, 4])])
    assert lengths.take() is not None
    assert lengths.take() is None
    lengths.add([mask([2]), mask([3, 3])])  # the two texts of a pair
    found = lengths.take()
    assert found is not None
    assert (int(found.kept), found.rows) == (8, 3)


def test_row_lengths_batch_without_mask_leaves_point_out() -> None:
    lengths = RowLengths()
    lengths.add([mask([1, 4])])
    lengths.add(None)
    assert lengths.take() is None
    lengths.add([mask([1, 4])])
    assert lengths.take() is not None


def test_row_lengths_of_too_many_rows_not_sorted() -> None:
    lengths = RowLengths()
    for _ in range(2):
        lengths.add([torch.ones(40_000, 1, dtype=torch.int64)])
    found = lengths.take()
    assert found is not None
    assert found.sorted is None
    assert int(found.kept) == found.padded == 80_000
