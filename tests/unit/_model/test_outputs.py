"""Tests losses and predictions that a model returns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tbx_callbacks._model.outputs import Losses, Predictions, loss_in, losses_in

X, LOSS = torch.ones(2, 3), torch.tensor(2.0)


@pytest.mark.parametrize("outputs", [{"loss": LOSS}, (LOSS, X), SimpleNamespace(loss=LOSS)])
def test_loss_in_usual_outputs_found(outputs: Any) -> None:
    loss = loss_in(outputs)
    assert loss is not None
    assert loss.item() == 2.0


def test_loss_in_outputs_without_scalar_none() -> None:
    assert loss_in({"logits": X}) is loss_in((X,)) is loss_in(X) is loss_in((X, LOSS)) is None


def test_outputs_reused_memory_changes_nothing() -> None:
    losses, predictions = Losses(), Predictions()
    aux, logits = torch.zeros(()), torch.zeros(4, 3)
    for number in range(4):
        losses.add({"aux_loss": aux.fill_(number)})
        logits.zero_()[:, number % 3] = 1.0
        predictions.add(logits, torch.tensor([number % 3] * 4))
    assert losses.pop() == {"aux_loss": (6.0, 4)}
    assert predictions.totals() == (16, 16)


def test_outputs_losses_in_mapping_read() -> None:
    ce, box = torch.tensor(0.5, requires_grad=True), torch.tensor([2.0])
    outputs = {
        "loss": ce + box,
        "loss_dict": {"loss": ce, "loss_ce": ce, "cardinality_error": box, "boxes": torch.ones(2), "class": 3},
        "aux_loss": torch.tensor(4.0),
        "other": {"loss_x": ce},
    }
    read = {name: value.item() for name, value in losses_in(outputs).items()}
    assert read == {"loss_ce": 0.5, "loss_dict/cardinality_error": 2.0, "aux_loss": 4.0}
    losses = Losses()
    for _ in range(2):
        losses.add(outputs)
    assert losses.pop()["loss_ce"] == (1.0, 2)


def counted(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[list[int]] | None:
    predictions = Predictions()
    for logits, labels in pairs:
        predictions.add(logits, labels)
    counts = predictions.class_totals()
    return None if counts is None else counts.tolist()


@pytest.mark.parametrize("batches", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("shape", [(8,), (4, 5)], ids=["inputs", "tokens"])
def test_class_counts_equal_naive_counts(batches: int, shape: tuple[int, ...]) -> None:
    dice = torch.Generator().manual_seed(batches)
    pairs = []
    for _ in range(batches):
        labels = torch.randint(-1, 4, shape, generator=dice)
        pairs.append((torch.randn(*shape, 4, generator=dice), torch.where(labels < 0, -100, labels)))
    guesses = [g for logits, labels in pairs for g in logits.argmax(-1)[labels >= 0].tolist()]
    truths = [t for _, labels in pairs for t in labels[labels >= 0].tolist()]
    assert counted(pairs) == [[each.count(n) for n in range(4)] for each in (guesses, truths)]


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(4, 21), torch.zeros(4, dtype=torch.int64)),  # too many classes
        (torch.zeros(4, 1), torch.zeros(4)),  # regression
        (torch.zeros(4, 3), torch.zeros(4, 3)),  # several classes for each input
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bool)),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 3), None),
    ],
)
def test_class_counts_without_classes_none(logits: torch.Tensor, labels: torch.Tensor) -> None:
    assert counted([(logits, labels)]) is None


def test_class_counts_stop_when_heads_differ() -> None:
    two, three = torch.zeros(4, 2), torch.zeros(4, 3)
    labels = torch.zeros(4, dtype=torch.int64)
    assert counted([(two, labels), (three, labels)]) is None
    predictions = Predictions()
    predictions.add(two, labels)
    first = predictions.class_totals()
    predictions.add(three, labels)
    assert first is not None
    assert predictions.class_totals() is first  # no further counts
    assert predictions.totals()[1] == 8
    assert first.tolist() == [[4, 0], [4, 0]]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_loss_in_one_element_is_scalar(shape: tuple[int, ...]) -> None:
    loss = loss_in({"loss": torch.full(shape, 0.5)})
    assert loss is not None
    assert (loss.shape, loss.item()) == ((), 0.5)
    assert loss_in({"loss": torch.ones(2)}) is None
