"""Tests the texts of rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._engine.row_texts import RowTexts
from tbx_callbacks._model.rows import Rows


class Words:
    """A tokenizer that cannot skip special tokens."""

    copies = 0

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(f"w{number}" for number in ids)

    def __deepcopy__(self, memo: Any) -> Words:
        Words.copies += 1
        return copy.copy(self)


def columns(rows: Rows, texts: RowTexts) -> Any:
    return iter([list(map(float, tensor.flatten().tolist())) for tensor in texts.tensors(rows)])


def rows(ids: list[list[int]], mask: Tensor | None = None) -> Rows:
    return Rows(torch.arange(len(ids)), are_ids=True, token_ids=torch.tensor(ids), mask=mask)


def test_row_texts_without_padding_and_cut() -> None:
    texts = RowTexts(Words(), 8)
    some = rows([[1, 2, 0], [3, 4, 5]], torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert texts.read(some, ["a", "b"], columns(some, texts)) == {"a": "w1 w2", "b": "w3 w4 w5"}
    assert Words.copies == 1
    negative = rows([[7, -100, 8]])
    assert texts.read_all(negative, columns(negative, texts)) == ["w7 w8"]
    long = rows([[10] * 9])
    assert texts.read_all(long, columns(long, texts)) == ["w10 w10 "]


def test_row_texts_known_rows_read_once() -> None:
    texts = RowTexts(Words(), 80)
    first, second = rows([[1], [2]]), rows([[2], [3]])
    assert texts.read(first, ["a", "b"], columns(first, texts)) == {"a": "w1", "b": "w2"}
    assert texts.read(second, ["b", "c"], columns(second, texts)) == {"c": "w3"}


def test_row_texts_without_token_ids_empty() -> None:
    without = Rows(torch.arange(3), are_ids=True)
    assert RowTexts(Words(), 80).read(without, ["a", "b", "c"], iter([])) == {}
