"""Tests statistics of a model's tensors when some are absent."""

from __future__ import annotations

import math

import pytest
import torch

from tbx_callbacks._model.tensors import Tensors


def test_tensors_absent_ones_count_zero() -> None:
    tensors = Tensors([torch.full((4,), 2.0), None, torch.tensor([math.nan, 1.0])])
    assert tensors.present == (True, False, True)
    assert tensors.squares[:2].tolist() == [16.0, 0.0]
    assert tensors.squares[2].isnan()
    assert tensors.nonfinite.tolist() == [0.0, 0.0, 1.0]


def test_tensors_squares_divided_by_loss_scale() -> None:
    assert Tensors([torch.full((4,), 8.0)], torch.tensor(4.0)).squares.tolist() == [16.0]


def test_tensors_statistics_only_releases_tensors() -> None:
    tensors = Tensors([torch.ones(3)]).statistics_only(nonfinite=True)
    assert (tensors.squares.tolist(), tensors[0]) == (pytest.approx([3.0]), None)
    assert tensors.nonfinite.tolist() == [0.0]


def test_tensors_grouped_without_absent_ones() -> None:
    one, two = torch.ones(2), torch.zeros(3)
    grouped = Tensors([one, None, two]).grouped({"a": [0, 1], "b": [1], "c": [2, 0]})
    assert {name: [id(t) for t in members] for name, (members, _) in grouped.items()} == {
        "a": [id(one)],
        "c": [id(two), id(one)],
    }


def test_tensors_squares_where_masked() -> None:
    tensors = Tensors([torch.ones(2), torch.ones(3)])
    assert tensors.squares_where([False, True]).tolist() == pytest.approx([0.0, 3.0])
