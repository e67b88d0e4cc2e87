"""Tests that a strategy is found for every model, reads plain tensors."""

from __future__ import annotations

import torch
from torch import nn

from tbx_callbacks._model.sharding import find_sharding
from tbx_callbacks._model.sharding.torch_sharding import TorchSharding


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
