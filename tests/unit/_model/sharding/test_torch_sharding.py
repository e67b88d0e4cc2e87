"""Tests that a strategy is found for every model, reads plain tensors and reports each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks._model.sharding import find_sharding
from tbx_callbacks._model.sharding.torch_sharding import TorchSharding


class Recorder:
    """Receives the events of a step."""

    wants_gradients = True

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def before_clip(self, scale: Tensor | None, optimizer: str | None, max_norm: float | None) -> None:
        self.events.append(("before_clip", optimizer))

    def record_clipping(self, norm: Tensor | float, max_norm: float) -> None:
        self.events.append(("record_clipping", max_norm))

    def before_step(self, name: str, *, closure: bool) -> None:
        self.events.append(("before", name, closure))

    def after_step(self, name: str, *hook_arguments: object) -> None:
        self.events.append(("after", name))


def trained() -> tuple[nn.Linear, torch.optim.Optimizer]:
    model = nn.Linear(3, 2)
    model.bias.requires_grad = False
    model(torch.ones(1, 3)).sum().backward()
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def test_find_sharding_unsharded_model_is_torch() -> None:
    model, optimizer = trained()
    for given in (optimizer, [optimizer], {"AdamW": optimizer}, None):
        found = find_sharding(model, given)
        assert isinstance(found, TorchSharding)
        assert found.unsupported_reason is None


def test_torch_sharding_plain_tensors_read_whole() -> None:
    model, optimizer = trained()
    sharding, tensors = TorchSharding(model), list(model.parameters())
    assert sharding.shard_ranks(tensors) == {}
    weights, gradients = sharding.weights(tensors), sharding.gradients(tensors)
    assert weights[0] is not None
    assert weights[0].data_ptr() == model.weight.data_ptr()
    assert not weights[0].requires_grad
    assert gradients == [model.weight.grad, None]
    assert sharding.has_gradients(tensors) == [True, False]
    assert [state for state, _ in sharding.optimizer_states(optimizer, tensors)] == [None, None]
    optimizer.step()
    (state, group), (bias_state, _) = sharding.optimizer_states(optimizer, tensors)
    assert state is not None
    assert state["exp_avg"].shape == model.weight.shape
    assert group["lr"] == 0.1
    assert bias_state is None


def test_torch_sharding_steps_reported_until_removed() -> None:
    model, optimizer = trained()
    recorder = Recorder()
    handles = TorchSharding(model).hook_steps({"A": optimizer}, recorder, ["A"])
    optimizer.step()
    optimizer.step(lambda: 0.0)
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert recorder.events == [("before", "A", False), ("after", "A"), ("before", "A", True), ("after", "A")]


def test_torch_sharding_without_comparison_no_pre_hook() -> None:
    model, optimizer = trained()
    recorder = Recorder()
    TorchSharding(model).hook_steps({"A": optimizer}, recorder, [])
    optimizer.step()
    assert recorder.events == [("after", "A")]
