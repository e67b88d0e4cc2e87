"""Tests the engine alone, driven by a plain loop into a MemoryWriter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tbx_callbacks import ConfigError, TbxLoop
from tbx_callbacks._engine.engine import Engine
from tests.helpers.engine_runs import train_engine as loop


def test_engine_user_scalar_with_metric_tag_refused() -> None:
    def take(step: int, engine: Engine) -> None:
        with pytest.raises(ValueError, match="tag must not be one that a metric writes"):
            engine.log("weight_norm/0", 1.0)

    loop(["weight_norm"], each=take)


def test_engine_failed_start_leaves_no_optimizer_hook(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError):
        TbxLoop(model, optimizer, {"metrics": [{"grad_norm": {"include": "nothing"}}]}, log_dir=tmp_path)
    assert not optimizer._optimizer_step_post_hooks
