"""Tests how the rows of a batch are told apart."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tbx_callbacks._model.rows import ID_COLUMNS, LateRows, Rows, UnreadRows, fingerprints, keys_of, rows_in, unread_ids

IDS = torch.tensor([[5, 6, 7, 0], [5, 6, 0, 0], [6, 5, 7, 0], [5, 6, 7, 8]])


def masked(ids: Tensor, **others: Any) -> dict[str, Any]:
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), **others}


def keys(batch: Any, labels: Any = None, size: int = 4) -> list[int]:
    found = fingerprints(batch, labels, size)
    assert found is not None
    return found.tolist()


def test_fingerprints_differ_by_token_and_order() -> None:
    assert len(set(keys(masked(IDS)))) == 4


@pytest.mark.parametrize("width", [0, 3, 40])
@pytest.mark.parametrize("value", [0, 9])
@pytest.mark.parametrize("left", [False, True])
def test_fingerprints_independent_of_padding(width: int, value: int, left: bool) -> None:
    ids = torch.full((4, 4 + width), value)
    mask = torch.zeros(4, 4 + width, dtype=torch.long)
    for row, own in enumerate(IDS):
        real = own[own != 0]
        place = slice(4 + width - len(real), 4 + width) if left else slice(0, len(real))
        ids[row, place], mask[row, place] = real, 1
    assert keys({"input_ids": ids, "attention_mask": mask}) == keys(masked(IDS))


@pytest.mark.parametrize(
    "change",
    [
        lambda ids: masked(ids, labels=torch.ones(4)),
        lambda ids: masked(ids, idx=torch.arange(4), guid=torch.arange(4)),
        lambda ids: OrderedDict(reversed(masked(ids).items())),
        lambda ids: masked(ids, text=["a"] * 4, num_items=torch.tensor(3)),
        lambda ids: {**masked(ids), "attention_mask": (ids != 0).float()},
        lambda ids: {**masked(ids), "attention_mask": ids != 0},
        lambda ids: masked(ids.int()),
    ],
)
def test_fingerprints_only_of_inputs(change: Any) -> None:
    batch = change(IDS)
    labels = batch.get("labels")
    assert keys(batch, labels) == keys(masked(IDS))


def test_fingerprints_of_row_alone_or_in_batch() -> None:
    every = keys(masked(IDS))
    for index in range(4):
        one = IDS[index : index + 1]
        assert keys(masked(one[:, : int((one != 0).sum())]), size=1) == [every[index]]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.uint8]
)
def test_fingerprints_of_any_dtype(dtype: torch.dtype) -> None:
    images = torch.rand(6, 3, 8, 8).mul(200).to(dtype)
    images[5] = images[2]
    found = keys(images, size=6)
    assert len(set(found)) == 5
    assert found[5] == found[2]
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    assert keys(images[order], size=6) == [found[n] for n in order]


def test_fingerprints_all_inputs_count() -> None:
    segments = torch.zeros_like(IDS)
    one, other = keys(masked(IDS, token_type_ids=segments)), keys(masked(IDS, token_type_ids=segments + 1))
    assert set(one).isdisjoint(other)
    assert set(keys([IDS, segments])).isdisjoint(keys([segments, IDS]))


def test_fingerprints_large_rows_sampled_evenly() -> None:
    images = torch.zeros(3, 100_000)
    images[1, -1] = 1
    images[2, 0] = 1
    assert len(set(keys(images, size=3))) == 3


def test_fingerprints_hundred_thousand_rows_all_different() -> None:
    numbers = torch.arange(100_000)[:, None]
    assert len(set(keys(numbers, size=100_000))) == 100_000


@pytest.mark.parametrize(
    "batch",
    [
        {"input_ids": IDS.to_sparse()},
        {"texts": ["a", "b"]},
        {"input_ids": IDS[:2]},
        {"input_ids": torch.zeros(4, 0)},
        None,
        torch.tensor(3),
    ],
)
def test_fingerprints_unknown_rows_none(batch: Any) -> None:
    assert fingerprints(batch, None, 4) is None


@pytest.mark.parametrize("name", ID_COLUMNS)
def test_rows_in_column_of_ids_identifies_rows(name: str) -> None:
    ids = torch.tensor([7, -3, 2**60, 0], dtype=torch.int64)
    for column in (ids, ids[:, None]):
        rows = rows_in(masked(IDS, **{name: column}), None, 4)
        assert rows is not None
        assert rows.are_ids
        assert isinstance(rows.keys, Tensor)
        assert rows.keys.tolist() == ids.tolist()
    rows = rows_in(masked(IDS, **{name: ["a", "b", "c", "d"]}), None, 4)
    assert rows is not None
    assert rows.keys == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    "column", [torch.rand(4), torch.arange(3), ["a", "b"], [None] * 4, torch.ones(4, 2), [1.5] * 4]
)
def test_rows_in_other_column_no_ids(column: Any) -> None:
    rows = rows_in(masked(IDS, idx=column), None, 4)
    assert rows is not None
    assert not rows.are_ids


def test_rows_in_keeps_copies_of_columns() -> None:
    ids, groups = torch.arange(4), torch.arange(4)
    batch = masked(IDS.clone(), idx=ids, source=groups)
    rows = rows_in(batch, None, 4, group_by="source", with_tokens=True)
    assert rows is not None
    for tensor in (ids, groups, batch["input_ids"], batch["attention_mask"]):
        tensor.fill_(99)
    assert isinstance(rows.groups, Tensor)
    assert rows.groups.tolist() == [0, 1, 2, 3]
    assert rows.token_ids is not None
    assert torch.equal(rows.token_ids, IDS)
    assert rows.mask is not None
    assert torch.equal(rows.mask, (IDS != 0).long())


def test_rows_in_without_size_none() -> None:
    assert rows_in(masked(IDS), None, None) is None
    assert rows_in({"a": 1}, None, 3) is None


def test_keys_of_ids_stay_different() -> None:
    ids = ["1", "#1", "a" * 150, "a" * 150 + "b", "a" * 100]
    rows = rows_in({"input_ids": torch.ones(5, 2, dtype=torch.long), "id": ids}, None, 5)
    assert rows is not None
    found = keys_of(rows, iter(()))
    assert len(set(found)) == 5
    assert all(len(key) <= 120 for key in found)
    assert found[0] == "1"
    assert not any(key.startswith("#") for key in found)  # as fingerprints do


@pytest.mark.parametrize(
    "column",
    [
        np.array([3, 1, 2, 2**40]),
        np.array([3.0, 1.0, 2.0, 2.0**40]),
        [np.int64(3), np.int32(1), 2, 2**40],
        [3.0, np.float32(1), 2.0, 2.0**40],
        torch.tensor([3.0, 1.0, 2.0, 2.0**40]),
        torch.tensor([3.0, 1.0, 2.0, 2.0**40], dtype=torch.float64)[:, None],
        np.array(["3", "1", "2", str(2**40)]),
    ],
    ids=str,
)
def test_rows_whole_ids_of_any_type(column: Any) -> None:
    batch = masked(IDS, idx=column)
    found = rows_in(batch, None, 4)
    assert found is not None
    assert found.are_ids
    columns = [] if isinstance(found.keys, tuple) else [(found.keys >> 32).tolist(), (found.keys & 0xFFFFFFFF).tolist()]
    assert keys_of(found, iter(columns)) == ["3", "1", "2", str(2**40)]
    assert unread_ids(batch, 4) is None


@pytest.mark.parametrize(
    "column",
    [
        np.array([3, 1.5, 2, 4]),
        [np.nan, 1.0, 2.0, 3.0],
        [float("inf"), 1.0, 2.0, 3.0],
        torch.tensor([0.5, 1, 2, 3]),
        torch.tensor([2.0**60, 1, 2, 3]),
        np.array([True] * 4),
        [1, 2, 3],
        [None, 1, 2, 3],
        np.zeros((4, 2), int),
    ],
    ids=str,
)
def test_rows_other_ids_not_read(column: Any) -> None:
    found = rows_in(masked(IDS, idx=column), None, 4)
    assert found is not None
    assert not found.are_ids
    assert unread_ids(masked(IDS, idx=column), 4) == "idx"
    assert unread_ids(masked(IDS), 4) is None


def test_rows_fingerprints_same_with_groups() -> None:
    batch = masked(IDS, source=torch.tensor([0, 1, 0, 2]))
    grouped, plain = rows_in(batch, None, 4, group_by="source"), rows_in(batch, None, 4)
    assert grouped is not None
    assert plain is not None
    assert torch.equal(grouped.keys, plain.keys)  # type: ignore[arg-type]


def taken(late: LateRows, batch: Any) -> Any:
    return late.take(batch, None, 4, with_tokens=False)


def read(rows: Any) -> Any:
    found = rows.read() if isinstance(rows, UnreadRows) else rows
    return None if found is None else found.keys.tolist()


@pytest.mark.parametrize("buffers", [1, 2])
@pytest.mark.parametrize("through_numpy", [True, False])
def test_late_rows_of_reused_memory_right_or_lost(through_numpy: bool, buffers: int) -> None:
    late, memory = LateRows(), [np.zeros((4, 3), np.int64) for _ in range(buffers)]
    tensors = [torch.from_numpy(each) for each in memory]
    kept, expected = [], []
    for number in range(6):
        new = np.arange(12).reshape(4, 3) + number
        if through_numpy:
            memory[number % buffers][:] = new
        else:
            tensors[number % buffers].copy_(torch.from_numpy(new))
        batch = {"input_ids": tensors[number % buffers]}
        expected.append(keys({"input_ids": torch.from_numpy(new)}))
        kept.append(taken(late, batch))
    found = [read(each) for each in kept]
    assert found[:buffers] == [None] * buffers  # nobody could know yet
    assert found[buffers:] == expected[buffers:]


def test_late_rows_written_to_after_last_batch_lost() -> None:
    ids = IDS.clone()
    kept = taken(LateRows(), {"input_ids": ids})
    ids += 1
    assert kept.is_overwritten
    assert kept.read() is None


def test_late_rows_of_other_memory_stay_unread() -> None:
    late = LateRows()
    kept = [taken(late, {"input_ids": IDS + number}) for number in range(4)]
    assert all(isinstance(each, UnreadRows) for each in kept)
    again = late.take(kept[-1].batch, None, 4, with_tokens=False, now=kept[-1])  # the same micro-batch
    assert isinstance(again, UnreadRows)
    assert not any(each.is_overwritten for each in kept)
    assert isinstance(taken(late, kept[0].batch), Rows)
