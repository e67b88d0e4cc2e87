"""Tests the losses of rows against torch's cross entropy in float64."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks._model.examples import MAX_GROUPS, NO_LABEL, ExampleBatch, Examples, row_losses
from tbx_callbacks._model.outputs import Predictions
from tbx_callbacks._model.rows import Rows


def drawn(rows: int = 9, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, classes, generator=generator) * 4, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_row_losses_equal_cross_entropy(dtype: torch.dtype) -> None:
    logits, labels = drawn()
    logits = logits.to(dtype)
    expected = nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    found = row_losses(logits, labels)
    assert found.losses.dtype == torch.float32
    torch.testing.assert_close(found.losses.double(), expected, rtol=1e-5, atol=1e-6)
    assert found.predicted.tolist() == logits.argmax(-1).tolist()


def test_row_losses_without_label_left_out() -> None:
    logits, labels = drawn()
    logits[1], logits[3] = torch.nan, torch.inf
    labels[1], labels[2], labels[4] = -100, 3, -1
    found = row_losses(logits, labels.int())
    assert found.labels.tolist() == [n if 0 <= n < 3 else NO_LABEL for n in labels.tolist()]
    assert found.losses[[1, 2, 4]].tolist() == [0, 0, 0]
    assert not found.losses[3].isfinite()


def collected(count: int, **options: Any) -> tuple[Examples, list[ExampleBatch]]:
    batches: list[ExampleBatch] = []
    examples = Examples(batches.extend, Predictions(), **options)
    for step in range(1, count + 1):
        logits, labels = drawn(step)
        rows = Rows(torch.arange(step), are_ids=True, groups=torch.arange(step) % 3)
        examples.add(step, {"logits": logits}, labels, rows)
    return examples, batches


def test_examples_passed_on_several_at_a_time() -> None:
    examples, batches = collected(100)
    assert len(batches) == 64
    examples.flush()
    assert [batch.step for batch in batches] == list(range(1, 101))
    examples.flush()
    assert len(batches) == 100


@pytest.mark.parametrize("as_texts", [False, True])
def test_examples_groups_add_up_losses(as_texts: bool) -> None:
    examples = Examples(None, Predictions(), group_by="source")
    expected: dict[str, list[float]] = {}
    for step in range(1, 6):
        logits, labels = drawn(8)
        labels[step] = -100
        groups = [(step * index) % 4 for index in range(8)]
        column: Any = tuple(map(str, groups)) if as_texts else torch.tensor(groups)
        examples.add(step, logits, labels, Rows(torch.arange(8), are_ids=True, groups=column))
        for index, group in enumerate(groups):
            if index != step:
                loss = nn.functional.cross_entropy(logits[index].double(), labels[index])
                expected.setdefault(str(group), []).append(float(loss))
    popped = examples.pop_groups()
    assert popped is not None
    sums, counts = popped
    for name in sums:
        assert float(sums[name]) == pytest.approx(sum(expected.get(name, [])), rel=1e-5)
        assert int(counts[name]) == len(expected.get(name, []))
    assert expected.keys() <= set(sums)
    assert examples.pop_groups() is None


def test_examples_groups_beyond_limit_left_out() -> None:
    examples = Examples(None, Predictions(), group_by="source")
    logits, labels = drawn(100)
    examples.add(1, logits, labels, Rows(torch.arange(100), are_ids=True, groups=torch.arange(-10, 90)))
    sums, counts = examples.pop_groups() or ({}, {})
    assert sum(map(int, counts.values())) == MAX_GROUPS
    examples.add(1, logits, labels, Rows(torch.arange(100), are_ids=True, groups=tuple(f"s {n}/é" for n in range(100))))
    sums, counts = examples.pop_groups() or ({}, {})
    assert list(sums)[:2] == ["s_0/é", "s_1/é"]
    assert sum(map(int, counts.values())) == MAX_GROUPS


@pytest.mark.parametrize(
    ("outputs", "labels", "rows", "reason"),
    [
        ({}, torch.zeros(4), None, "the model's outputs have no `logits`"),
        (torch.rand(4, 3), None, None, "no labels of the batch were found"),
        (torch.rand(4, 3), torch.rand(4), None, "labels are not one class for each row"),
        (torch.rand(4, 5, 3), torch.zeros(4, 5).long(), None, "labels are not one class for each row"),
        (torch.rand(4, 1), torch.zeros(4).long(), None, "the model has a single output"),
        (torch.rand(4, 3), torch.zeros(4).long(), None, "the rows of a batch cannot be told apart"),
        (torch.rand(4, 3), torch.zeros(4).long(), Rows(("a",), True), "the rows of a batch cannot be told apart"),
    ],
)
def test_examples_without_rows_warn_once(
    outputs: Any, labels: Any, rows: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    examples = Examples(None, Predictions())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            examples.add(1, outputs, labels, rows)
            examples.warn_if_empty()
    assert caplog.text.count(f"rows are not recorded: {reason}") == 1


def test_examples_without_column_of_groups_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    examples = Examples(None, Predictions(), group_by="source")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            examples.add(1, *drawn(4), Rows(torch.arange(4), are_ids=True))
            examples.warn_if_empty()
    assert caplog.text.count("batches have no column source of whole numbers or texts") == 1
