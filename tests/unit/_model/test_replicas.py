"""Tests which tensors count as copies, and the numbers of two ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks._model.parameters import Group, parameters_of
from tbx_callbacks._model.replicas import CHECKSUMS, RANKS, Copies, Replicas


@pytest.fixture(autouse=True)
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))


def replicas(model: nn.Module, holders: int = 2, **others: int) -> Replicas:
    parameters = parameters_of(model)
    return Replicas(model, parameters, [others.get(p.name.replace(".", "_"), holders) for p in parameters], ())


def weights(of: Replicas) -> Copies:
    groups = [Group("a", (0, 1)), Group("b", (2, 3, 4, 5))]
    return of.weights(groups, [p.tensor.detach() for p in of.parameters])


def test_replicas_same_weights_same_numbers() -> None:
    first, second = weights(replicas(net())), weights(replicas(net()))
    assert first.whole[0].names == second.whole[0].names
    assert all(torch.equal(a.numbers, b.numbers) for a, b in zip(first.whole, second.whole, strict=True))


def test_replicas_one_bit_changes_its_group() -> None:
    model = net()
    model.get_parameter("2.weight").detach().view(torch.int32)[1, 1] ^= 1
    first, second = weights(replicas(net())).whole[0], weights(replicas(model)).whole[0]
    assert (first.numbers == second.numbers).tolist() == [True, False]


def test_replicas_parts_are_exact_integers() -> None:
    high, low, first = (part.numbers for part in weights(replicas(net())).whole)
    assert torch.equal(high, -low)  # on rank 0
    assert torch.equal(first - (RANKS - 1) * CHECKSUMS, high / RANKS)
    assert (first < 2**53).all()


def test_replicas_tensor_of_one_rank_left_out() -> None:
    assert not weights(replicas(net(), holders=1)).whole
    alone = replicas(net(), holders=2, **{"0_weight": 1})
    assert [place is None for place in alone.places] == [True, False, False, False, False, False]


def test_replicas_tensor_of_some_ranks_separate_key() -> None:
    mixed = weights(replicas(net(), holders=4, **{"0_weight": 2})).whole[0].names
    assert [name.partition(":")[0] for name in mixed] == ["a", "a", "b"]
    assert len(set(mixed)) == 3


def test_replicas_parameter_excluded_from_wrapper_left_out() -> None:
    model = net()
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["0.weight"])
    assert [place is None for place in replicas(model).places] == [True, False, False, False, False, False]


def test_replicas_doubt_spares_wrapped_parameters() -> None:
    plain, wrapped = replicas(net()), replicas(DistributedDataParallel(net()))
    for each in (plain, wrapped):
        each.doubt()
    assert (plain.has_doubts, wrapped.has_doubts) == (True, False)
    assert not weights(plain).whole
    assert weights(wrapped).whole


def test_replicas_state_without_step_counts() -> None:
    model = net()
    adam = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    adam.step()
    of, groups = replicas(model), [Group("a", (0, 1))]
    states = [adam.state[p.tensor] for p in of.parameters]
    before = of.states(groups, states).whole[0].numbers
    states[0]["step"] += 1
    assert torch.equal(of.states(groups, states).whole[0].numbers, before)
    states[0]["exp_avg"] += 1e-3
    assert not torch.equal(of.states(groups, states).whole[0].numbers, before)
    assert not of.states(groups, [None] * len(states)).whole


def test_replicas_buffers_only_without_broadcast() -> None:
    assert not replicas(net()).buffers
    assert not replicas(DistributedDataParallel(net())).buffers
    with pytest.warns(FutureWarning):
        model = DistributedDataParallel(net(), broadcast_buffers=False)
    assert {name.rpartition(".")[2] for name in replicas(model).buffers} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
