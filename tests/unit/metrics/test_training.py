"""Tests metrics of the trainer: losses, accuracy, learning rates and loss scale."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks.metrics.context import Interval
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.training import Amp, LearningRate, Loss, Outputs, TrainAccuracy
from tbx_callbacks.metrics.values import Mean
from tests.helpers.contexts import context, finished


def test_loss_logs_written_unchanged() -> None:
    logs = {"train/loss": torch.tensor(0.5), "eval/accuracy": 0.75, "note": "words"}
    assert finished(Loss()(context(event="log", logs=logs))) == {
        "train/loss": 0.5,
        "eval/accuracy": 0.75,
        "note": Text("words"),
    }


def test_outputs_extra_losses_averaged() -> None:
    interval = Interval(extra_losses={"aux_loss": Mean(torch.tensor(6.0), 4)})
    assert finished(Outputs()(context(interval=interval))) == {"train/aux_loss": 1.5}


def test_train_accuracy_share_of_labels() -> None:
    assert finished(TrainAccuracy()(context(interval=Interval(hits=3, predictions=4)))) == {"train/accuracy": 0.75}
    assert finished(TrainAccuracy()(context(interval=Interval()))) == {}


def test_train_accuracy_shares_of_classes() -> None:
    counts = torch.tensor([[3, 1, 0], [2, 1, 1]])
    assert finished(TrainAccuracy()(context(interval=Interval(hits=3, predictions=4, class_counts=counts)))) == {
        "train/accuracy": 0.75,
        "train/predicted_share/0": 0.75,
        "train/predicted_share/1": 0.25,
        "train/predicted_share/2": 0.0,
        "train/label_share/0": 0.5,
        "train/label_share/1": 0.25,
        "train/label_share/2": 0.25,
        "train/labels": 4.0,
    }
    none = Interval(class_counts=counts) - Interval(class_counts=counts)
    assert finished(TrainAccuracy()(context(interval=none))) == {"train/labels": 0.0}


def test_learning_rate_of_each_group_written() -> None:
    rates = {"AdamW/pg1": 0.1, "AdamW/pg2": torch.tensor(0.25)}
    values = finished(LearningRate()(context(learning_rates=rates)))
    assert values == pytest.approx({"lr/AdamW/pg1": 0.1, "lr/AdamW/pg2": 0.25})


def test_amp_scale_and_skipped_steps() -> None:
    interval = Interval(loss_scale=torch.tensor(1024.0), skipped_steps=torch.tensor(2))
    assert finished(Amp()(context(interval=interval))) == {"amp/scale": 1024.0, "amp/skipped_steps": 2.0}
    assert Amp()(context()) == {}
