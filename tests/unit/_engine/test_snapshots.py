"""Tests snapshots of weights: copied only for due metrics and their selection, freed after the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop
from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.schedule import never
from tbx_callbacks._engine.metric_plan import plan
from tbx_callbacks._engine.snapshots import WeightSnapshot
from tbx_callbacks._model.model_access import ModelAccess
from tests.helpers.runs import Run

UPDATES = [
    {"update_norm": {"by": "parameter"}},
    {"update_norm": {"by": "total"}},
    {"update_ratio": {"by": "parameter"}},
    {"update_histogram": {"by": "parameter"}},
]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def batch(seed: int) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(6, 4, generator=made), torch.randint(0, 2, (6,), generator=made)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().double().clone() for name, p in model.named_parameters()}


def copies(model: nn.Module, metrics: list[Any], *, closure: bool = False) -> dict[int, Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    source = ModelAccess(model, {"SGD": optimizer})
    items = load_config({"every": 1, "metrics": metrics}).items
    snapshot = WeightSnapshot()
    snapshot.take(
        source, plan(items, 1, source.parameters, never, source.parameters_by_optimizer), "SGD", closure=closure
    )
    return snapshot._copies["SGD"]


def test_weight_snapshot_only_selected_and_trained_copied() -> None:
    model = net()
    assert set(copies(model, [{"update_norm": {"include": "^0"}}], closure=True)) == {0, 1}
    assert copies(model, UPDATES) == {}  # the optimizer skips parameters without a gradient
    model(batch(1)[0]).sum().backward()
    assert set(copies(model, UPDATES)) == {0, 1, 2, 3}
    model[0].requires_grad_(False)
    assert set(copies(model, UPDATES)) == {0, 1, 2, 3}  # they are updated until their gradients are gone
    model[0].zero_grad()
    assert set(copies(model, UPDATES, closure=True)) == {2, 3}


def test_weight_snapshot_half_precision_exact_updates() -> None:
    model = net().bfloat16()
    source = ModelAccess(model, {"SGD": torch.optim.SGD(model.parameters(), lr=0.1)})
    model(batch(1)[0].bfloat16()).sum().backward()
    items = load_config({"every": 1, "metrics": UPDATES}).items
    snapshot = WeightSnapshot()
    snapshot.take(
        source, plan(items, 1, source.parameters, never, source.parameters_by_optimizer), "SGD", closure=False
    )
    before = weights(model)
    source.optimizers["SGD"].step()
    updates = snapshot.updates(source, "SGD", None)
    assert updates is not None
    expected = [(after - before[name]).square().sum().item() for name, after in weights(model).items()]
    assert updates.squares.tolist() == pytest.approx(expected, rel=1e-5)
    assert min(expected) > 0


@pytest.mark.parametrize(
    ("metrics", "expected"), [(UPDATES, [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]), (["grad_norm"], [0] * 12)]
)
def test_weight_snapshot_taken_only_on_due_steps(tmp_path: Path, metrics: list[Any], expected: list[int]) -> None:
    model, recorded = net(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, {"every": 3, "metrics": metrics}, log_dir=tmp_path) as loop:
        optimizer.register_step_pre_hook(
            lambda *_: recorded.append(len(loop._session._engine.recorder._weight_snapshot._copies))
        )
        for step in range(1, 7):
            model(batch(step)[0]).sum().backward()
            optimizer.step()
            recorded.append(len(loop._session._engine.recorder._weight_snapshot._copies))
            loop.end_step()
    assert recorded == expected


def test_weight_snapshot_with_closure_exact_updates(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    recorded: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    with TbxLoop(model, optimizer, {"every": 2, "metrics": UPDATES}, log_dir=tmp_path) as loop:
        for step in range(1, 7):
            x, y = batch(step)

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            before = weights(model)
            optimizer.step(closure)
            recorded[step] = before, weights(model)
            loop.end_step()
    read = Run(tmp_path)
    assert read.steps("update_norm/total") == [2, 4, 6]
    compare(read, recorded)


def compare(read: Run, recorded: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]]) -> None:
    for step, value in read.scalars["update_norm/total"]:
        before, after = recorded[step]
        changes = {name: after[name] - before[name] for name in after}
        assert value == pytest.approx(torch.cat([c.reshape(-1) for c in changes.values()]).norm().item(), rel=1e-5)
        for name, change in changes.items():
            assert read.at(f"update_norm/{name}")[step] == pytest.approx(change.norm().item(), rel=1e-5)
            ratio = (change.norm() / after[name].norm()).item()
            assert read.at(f"update_ratio/{name}")[step] == pytest.approx(ratio, rel=1e-5)
            proto = read.histograms[f"updates/{name}"][step]
            assert proto.num == change.numel()
            assert (proto.min, proto.max) == pytest.approx((change.min().item(), change.max().item()), rel=1e-4)
            assert proto.sum == pytest.approx(change.sum().item(), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("fused", [False, True])
def test_weight_snapshot_skipped_step_no_updates(tmp_path: Path, fused: bool) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    recorded, calls = {}, 0
    with TbxLoop(model, optimizer, {"every": 1, "metrics": UPDATES}, log_dir=tmp_path) as loop:
        for call in range(1, 7):
            x, y = batch(call)
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            if call == 3:
                model[0].weight.grad[0, 0] = torch.inf
            before = weights(model)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            loop.end_step()
            if call == 3:
                assert all(torch.equal(before[name], after) for name, after in weights(model).items())
            calls += call != 3 or fused  # the scaler does not call other optimizers, so they count no step
            if call != 3:
                recorded[calls] = before, weights(model)
    read = Run(tmp_path)
    assert read.steps("update_norm/total") == list(recorded) == ([1, 2, 4, 5, 6] if fused else [1, 2, 3, 4, 5])
    assert read.steps("update_ratio/0.weight") == list(read.histograms["updates/0.weight"]) == list(recorded)
    compare(read, recorded)
