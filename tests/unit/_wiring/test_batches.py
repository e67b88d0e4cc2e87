"""Tests the checks of the first batches."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks._wiring.batches import Batches, classes_of


def number(batches: Batches, name: str) -> float | None:
    check = batches.result().get(name)
    return None if check is None else float(check.number)


def test_batches_share_of_ignored_labels() -> None:
    batches = Batches(nn.Linear(1, 1))
    batches.add_labels(torch.tensor([[1, -100, -100]]), None)
    batches.add_labels(torch.tensor([[-100]]), None)
    assert number(batches, "labels_ignored") == 3 / 4
    assert number(batches, "labels_out_of_range") is None  # the number of classes is not known


def test_batches_labels_outside_of_classes_counted() -> None:
    batches = Batches(nn.Linear(1, 1))
    batches.add_labels(torch.tensor([0, 2, 3, -1, -100]), 3)
    assert number(batches, "labels_out_of_range") == 2


@pytest.mark.parametrize(
    "labels", [torch.tensor([0.5]), torch.ones(2, 2, 2).long(), [1, 2], None, torch.tensor([]).long()]
)
def test_batches_labels_of_other_tasks_not_judged(labels: Any) -> None:
    batches = Batches(nn.Linear(1, 1))
    batches.add_labels(labels, 3)
    assert batches.result() == {}


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ([[0, 0, 0, 0], [1, 1, 1, 1]], 1),
        ([[0, 0, 0, 0], [1, 0, 1, 1]], 1 / 2),
        ([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0]], 1),  # the last batch is small
        ([[0, 0], [1, 1]], None),  # too few labels to say so
        ([[-100] * 4, [-100] * 4], 0),
    ],
)
def test_batches_sorted_labels(each: list[list[int]], expected: float | None) -> None:
    batches = Batches(nn.Linear(1, 1))
    for labels in each:
        batches.add_labels(torch.tensor(labels), None)
        batches.add_samples(len(labels))
    assert number(batches, "labels_sorted") == expected


@pytest.mark.parametrize(("wrong", "rows", "expected"), [(0, 32, 1), (1, 32, 31 / 32), (0, 16, -1)])
def test_batches_share_of_correct_predictions(wrong: int, rows: int, expected: float) -> None:
    labels = torch.arange(rows) % 3
    logits = torch.eye(3)[labels]
    logits[:wrong] = -logits[:wrong]
    batches = Batches(nn.Linear(1, 1))
    batches.add_outputs(logits, labels)
    assert number(batches, "perfect_at_once") == pytest.approx(expected)


@pytest.mark.parametrize(("loss", "expected"), [(math.log(3), 1.0), (5 * math.log(3), 5.0), (math.nan, -1.0)])
def test_batches_first_loss_as_multiple_of_chance(loss: float, expected: float) -> None:
    batches = Batches(nn.Linear(1, 1))
    batches.add_outputs(torch.zeros(2, 3), None)
    checks = batches.add_loss(torch.tensor(loss), is_cross_entropy=True, is_mean=True)
    assert float(checks["first_loss_unusual"].number) == pytest.approx(expected)
    assert float(checks["first_loss_not_finite"].number) == math.isnan(loss)
    assert batches.add_loss(torch.tensor(9.0), is_cross_entropy=True, is_mean=True) == {}  # only the first batch


def test_batches_first_loss_of_other_kind_unjudged() -> None:
    batches = Batches(nn.Linear(1, 1))
    batches.add_outputs(torch.zeros(2, 3), None)
    assert "first_loss_unusual" not in batches.add_loss(torch.tensor(9.0), is_cross_entropy=False, is_mean=False)
    assert batches.add_loss(torch.tensor([1.0, 2.0]), is_cross_entropy=True, is_mean=True) == {}


def test_batches_share_of_unknown_tokens() -> None:
    batches = Batches(nn.Linear(1, 1), unknown_token=100)
    batches.add_tokens(torch.tensor([[100, 7], [8, 100]]))
    assert number(batches, "unknown_tokens") == 0.5
    other = Batches(nn.Linear(1, 1))
    other.add_tokens(torch.tensor([[100]]))
    assert other.result() == {}


@pytest.mark.parametrize(("sizes", "expected"), [([1, 1], 2), ([1, 8], 0), ([8], 0)])
def test_batches_batch_norm_of_single_samples(sizes: list[int], expected: int) -> None:
    batches = Batches(nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2)))
    for size in sizes:
        batches.add_samples(size)
    assert number(batches, "batch_norm_single") == expected
    assert number(Batches(nn.BatchNorm1d(1)), "batch_norm_single") is None  # no size is known


@pytest.mark.parametrize(
    ("name", "problem", "expected"),
    [
        ("BertForSequenceClassification", None, 4),
        ("BertForSequenceClassification", "regression", None),
        ("BertForTokenClassification", "single_label_classification", 4),
        ("BertForMultipleChoice", None, None),  # its labels are choices
    ],
)
def test_classes_of_heads_that_use_them(name: str, problem: str | None, expected: int | None) -> None:
    model: Any = type(name, (nn.Module,), {})()
    model.config = SimpleNamespace(num_labels=4, problem_type=problem)
    assert classes_of(model) == expected


class Language(nn.Module):
    """Says that it is a language model of five tokens."""

    config = SimpleNamespace(vocab_size=5)

    def get_output_embeddings(self) -> Tensor:
        return torch.ones(1)


def test_batches_language_model_has_no_predictions() -> None:
    batches = Batches(Language())
    batches.add_outputs(torch.zeros(2, 20, 5), torch.zeros(2, 20).long())
    assert number(batches, "perfect_at_once") is None


@pytest.mark.parametrize(
    ("loss", "expected"), [(0.1, 1.0), (math.log(5), 1.0), (8 * math.log(5), 8.0), (math.nan, -1.0)]
)
def test_batches_language_model_first_loss_above_chance(loss: float, expected: float) -> None:
    batches = Batches(Language())
    batches.add_outputs(torch.zeros(2, 20, 5), None)
    check = batches.add_loss(torch.tensor(loss), is_cross_entropy=True, is_mean=True)["first_loss_unusual"]
    assert float(check.number) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ([[1, 2], [2, 1], [1, 2]], 3),
        ([[1, 2], [2, 1], [1, 3]], 0),
        ([[1, 2], [1, 2], [1, 2, 2]], 0),
        ([[1, 2], [1, 2]], None),
    ],
)
def test_batches_same_rows_in_any_order(each: list[list[int]], expected: float | None) -> None:
    batches = Batches(nn.Linear(1, 1))
    for rows in each:
        batches.add_inputs(torch.tensor(rows)[:, None] * torch.tensor([1.0, 7.0]))
    assert number(batches, "repeated_batches") == expected


def test_batches_compare_rows_without_random_numbers() -> None:
    batches = Batches(nn.Linear(1, 1))
    before = torch.get_rng_state()
    batches.add_inputs(torch.ones(3, 2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("differs", "expected"), [(False, 3), (True, 0)])
def test_batches_second_input_may_differ(differs: bool, expected: float) -> None:
    """Fixed prompts with other images are other rows."""
    batches = Batches(nn.Linear(1, 1))
    for index in range(4):
        batches.add_inputs(torch.ones(2, 5).long(), torch.full((2, 3), float(index if differs else 0)))
    assert number(batches, "repeated_batches") == expected
    assert batches.result()["repeated_batches"].details == "2 rows"


def test_batches_inputs_without_rows_not_compared() -> None:
    ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    for odd in (torch.eye(2).to_sparse(), ragged):
        batches = Batches(nn.Linear(1, 1))
        for _ in range(4):
            batches.add_inputs(torch.ones(2, 3), odd)
        assert "repeated_batches" not in batches.result()
