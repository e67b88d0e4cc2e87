"""Tests losses and predictions that a model returns."""

from __future__ import annotations

import torch

from tbx_callbacks._model.outputs import Losses, Predictions


def test_outputs_reused_memory_changes_nothing() -> None:
    losses, predictions = Losses(), Predictions()
    aux, logits = torch.zeros(()), torch.zeros(4, 3)
    for number in range(4):
        losses.add({"aux_loss": aux.fill_(number)})
        logits.zero_()[:, number % 3] = 1.0
        predictions.add(logits, torch.tensor([number % 3] * 4))
    assert losses.pop() == {"aux_loss": (6.0, 4)}
    assert predictions.totals() == (16, 16)
