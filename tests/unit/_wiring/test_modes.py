"""Tests the checks of training and evaluation mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tbx_callbacks._wiring.modes import Modes, batch_norms, depends_on_mode


class Functional(nn.Module):
    """Attention that keeps its dropout as a number."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Linear(2, 2), False),
        (nn.Dropout(0.1), True),
        (nn.Dropout(0.0), False),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), True),
        (nn.LSTM(2, 2, 2, dropout=0.5), True),
        (Functional(0.1), True),
        (Functional(0.0), False),
        (nn.LayerNorm(2), False),
    ],
    ids=str,
)
def test_depends_on_mode_dropout_or_batch_norm(model: nn.Module, expected: bool) -> None:
    assert depends_on_mode(model) == expected


def test_modes_steps_in_evaluation_mode_counted() -> None:
    model = nn.Dropout(0.5)
    modes = Modes(model)
    modes.add_step(1)
    modes.add_step(2)
    model.eval()
    modes.add_step(3)
    modes.add_step(4)
    check = modes.take()["eval_mode_in_training"]
    assert (check.number, check.details) == (0.5, "since step 3")
    assert modes.take() == {}


def test_modes_same_function_in_both_modes_fine() -> None:
    modes = Modes(nn.Linear(1, 1).eval())
    modes.add_step(1)
    assert modes.take()["eval_mode_in_training"].number == 0


@pytest.mark.parametrize(("training", "evaluating", "expected"), [(3, 0, 1), (3, 2, 0), (0, 2, 0)])
def test_modes_evaluation_in_training_mode_counted(training: int, evaluating: int, expected: int) -> None:
    modes = Modes(nn.Dropout(0.5))
    modes.passes_in_training, modes.passes_in_eval = training, evaluating
    modes.add_evaluation()
    assert modes.take()["train_mode_in_evaluation"].number == expected


def test_modes_evaluation_without_passes_not_judged() -> None:
    modes = Modes(nn.Dropout(0.5))
    modes.add_evaluation()
    assert modes.take() == {}


def test_batch_norms_frozen_statistics_left_out() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval())
    assert batch_norms(model) == [model[0]]
    assert torch.is_grad_enabled()
