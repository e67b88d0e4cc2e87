"""Locates a model's elements on the ranks: one module per sharding strategy, and `find_sharding` to choose one."""

from __future__ import annotations

from typing import Any

from torch import nn

from tbx_callbacks._model.sharding.base import Sharding
from tbx_callbacks._model.sharding.deepspeed import DeepSpeedSharding
from tbx_callbacks._model.sharding.torch_sharding import TorchSharding

STRATEGIES: tuple[type[Sharding], ...] = (DeepSpeedSharding, TorchSharding)
"""The strategies, in the order in which they are tried. The last one accepts every model."""


def find_sharding(model: nn.Module, optimizer: Any = None) -> Sharding:
    """Returns the strategy of a training.

    Args:
        model: the model.
        optimizer: the trainer's optimizer, in its wrappers; one, several, or several by name.
    """
    return next(found for strategy in STRATEGIES if (found := strategy.detect(model, optimizer)) is not None)
