"""Tests that optimizers are unwrapped and named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks._model.optimizers import named_optimizers, scaler_of, unwrap_optimizer


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)


class PassesOn:
    """A wrapper that passes attributes on to its optimizer, as Fabric's does."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)


class Averaging(torch.optim.SGD):
    """An optimizer with hooks of its own that keeps another one."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(nn.Linear(1, 1).parameters(), lr=0.1)
        self.optimizer = optimizer


def test_unwrap_optimizer_in_wrappers_found() -> None:
    optimizer = sgd()
    assert unwrap_optimizer(optimizer) is optimizer
    assert unwrap_optimizer(SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer))) is optimizer
    assert unwrap_optimizer(PassesOn(PassesOn(optimizer))) is optimizer


def test_unwrap_optimizer_with_own_hooks_unchanged() -> None:
    outer = Averaging(sgd())
    assert unwrap_optimizer(outer) is outer


@pytest.mark.parametrize("wrong", ["adam", SimpleNamespace(optimizer="adam"), None])
def test_named_optimizers_not_torch_raises(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"an optimizer must be a torch.optim.Optimizer, got (str|NoneType)"):
        named_optimizers(wrong)
    with pytest.raises(ValueError, match=r"at least one torch.optim.Optimizer, got none"):
        named_optimizers([])


def test_named_optimizers_by_class_or_mapping() -> None:
    first, second = sgd(), sgd()
    assert named_optimizers(first) == {"SGD": first}
    assert named_optimizers([PassesOn(first), second]) == {"SGD": first, "SGD-1": second}
    assert named_optimizers({"generator": first, "critic": second}) == {"generator": first, "critic": second}


def test_scaler_of_wrapped_optimizers_found() -> None:
    scaler = object()
    with_scaler = SimpleNamespace(scaler=scaler, optimizer=sgd())
    assert scaler_of([sgd(), with_scaler]) is scaler_of({"a": with_scaler}) is scaler_of(with_scaler) is scaler
    assert scaler_of(sgd()) is None
