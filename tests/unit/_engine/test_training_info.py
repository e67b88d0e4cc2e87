"""Tests that `TrainingInfo` completes and checks the facts of an integration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks._config.schedule import at, every
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.sharding.torch_sharding import TorchSharding

MODEL = nn.Linear(2, 2)
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), lr=0.1)


def test_training_info_interval_and_wrapper_completed() -> None:
    scaler = object()
    info = TrainingInfo(MODEL, SimpleNamespace(optimizer=OPTIMIZER, scaler=scaler), log_schedule=5, clipping="norm")
    assert (info.optimizers, info.log_schedule, info.scaler) == ({"SGD": OPTIMIZER}, every(5), scaler)
    assert info.spreads_nonfinite
    assert isinstance(info.sharding, TorchSharding)


def test_training_info_given_facts_kept() -> None:
    sharding = TorchSharding(MODEL)
    info = TrainingInfo(MODEL, {"mine": OPTIMIZER}, log_schedule=at(1), sharding=sharding)
    assert (info.optimizers, info.log_schedule) == ({"mine": OPTIMIZER}, at(1))
    assert info.sharding is sharding
    assert not info.spreads_nonfinite
    assert replace(info, hparams={"a": 1}).optimizers == {"mine": OPTIMIZER}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clipping": "norms"}, "clipping must be one of none, norm, other, got 'norms'"),
        ({"log_schedule": "10"}, "log_schedule must be a number of steps or a function of them, got str"),
        ({"log_schedule": 0}, "log_schedule must be at least 1 step, got 0"),
        ({"optimizers": "adam"}, "an optimizer must be a torch.optim.Optimizer, got str"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0; leave it out if it is unknown"),
        ({"optimizers": ()}, "optimizers must be at least one torch.optim.Optimizer, got none"),
    ],
)
def test_training_info_wrong_fact_raises(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"model": MODEL, "optimizers": OPTIMIZER, "log_schedule": 10, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        TrainingInfo(**arguments)


def test_training_info_hparams_of_optimizers_added() -> None:
    scheduled = torch.optim.AdamW(MODEL.parameters(), lr=0.5, weight_decay=0.25)
    torch.optim.lr_scheduler.LinearLR(scheduled, 0.1)
    info = TrainingInfo(MODEL, scheduled, log_schedule=1, hparams={"weight_decay": Path("none")})
    assert info.hparams == {"optimizer": "AdamW", "learning_rate": 0.5, "weight_decay": "none"}
    several = TrainingInfo(MODEL, {"a": scheduled, "b": OPTIMIZER}, log_schedule=1)
    expected = {"optimizer/a": "AdamW", "learning_rate/a": 0.5, "weight_decay/a": 0.25, "optimizer/b": "SGD"}
    assert expected.items() <= several.hparams.items()
