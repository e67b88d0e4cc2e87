"""Tests losses and predictions that a model returns."""

from __future__ import annotations

import torch

from tbx_callbacks._model.outputs import Losses, Predictions, losses_in


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
