"""Tests that metrics follow a model and optimizers that change during the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop
from tbx_callbacks._engine.planner import Planner
from tests.helpers.runs import Run

SET = {
    "every": 1,
    "strict": True,
    "metrics": [
        {"grad_norm": {"by": "total"}},
        {"weight_norm": {"by": "layer"}},
        {"update_norm": {"by": "total"}},
        {"grad_histogram": {"by": "total"}},
        "learning_rate",
    ],
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


def norm(tensors: Any) -> float:
    return float(torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors]).norm())


def grow(model: Net, optimizer: torch.optim.Optimizer) -> None:
    model.layers.append(nn.Linear(4, 4))
    optimizer.add_param_group({"params": list(model.layers[2].parameters()), "lr": 0.2})


def replace_layer(model: Net, optimizer: torch.optim.Optimizer) -> None:
    model.layers[1] = nn.Linear(4, 4)
    optimizer.param_groups[0]["params"] = list(model.parameters())


def replace_tensor(model: Net, optimizer: torch.optim.Optimizer) -> None:
    model.layers[1].weight = nn.Parameter(torch.randn(4, 4))
    optimizer.param_groups[0]["params"] = list(model.parameters())


def unfreeze(model: Net, optimizer: torch.optim.Optimizer) -> None:
    model.layers[1].requires_grad_(True)


def drop_layer(model: Net, optimizer: torch.optim.Optimizer) -> None:
    del model.layers[1]
    optimizer.param_groups[0]["params"] = list(model.parameters())


def convert(model: Net, optimizer: torch.optim.Optimizer) -> None:
    model.double()


def train(folder: Any, change: Callable[[Net, torch.optim.Optimizer], None], config: Any = SET) -> Iterator[Any]:
    """Trains 4 steps, with a change before the third; yields what each step should write."""
    model = Net()
    model.layers[1].requires_grad_(change is not unfreeze)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, config, log_dir=folder) as loop:
        for step in range(1, 5):
            if step == 3:
                change(model, optimizer)
            x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step)).to(model.layers[0].weight.dtype)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            before = [p.detach().double().clone() for p in model.parameters()]
            optimizer.step()
            yield {
                "step": step,
                "grad": norm([p.grad for p in model.parameters() if p.grad is not None]),
                "weights": {n: norm(layer.parameters()) for n, layer in enumerate(model.layers)},
                "update": norm([p.detach().double() - old for p, old in zip(model.parameters(), before, strict=True)]),
                "elements": sum(p.numel() for p in model.parameters() if p.grad is not None),
            }
            loop.end_step()


@pytest.mark.parametrize("change", [grow, replace_layer, replace_tensor, unfreeze, drop_layer, convert])
def test_changed_model_each_step_exact(tmp_path: Any, change: Callable[[Net, Any], None]) -> None:
    expected = list(train(tmp_path, change))
    run = Run(tmp_path)
    for right in expected:
        step = right["step"]
        assert run.at("grad_norm/total")[step] == pytest.approx(right["grad"], rel=1e-5)
        assert run.at("update_norm/total")[step] == pytest.approx(right["update"], rel=1e-4)
        assert run.histograms["grads/total"][step].num == right["elements"]
        for layer, value in right["weights"].items():
            assert run.at(f"weight_norm/layers.{layer}")[step] == pytest.approx(value, rel=1e-5)
    assert ("weight_norm/layers.2" in run.scalars) == ("lr/SGD/pg2" in run.scalars) == (change is grow)
    assert run.steps("weight_norm/layers.1") == ([1, 2] if change is drop_layer else [1, 2, 3, 4])
    if change is grow:
        assert run.steps("weight_norm/layers.2") == run.steps("lr/SGD/pg2") == [3, 4]


def test_changed_model_read_again_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plans, plan_again = [], Planner.plan_again
    monkeypatch.setattr(Planner, "plan_again", lambda *args: (plans.append(1), plan_again(*args))[1])
    list(train(tmp_path, grow))
    assert plans == [1]


def test_changed_model_pattern_without_match_left_out(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    config = {"every": 1, "metrics": [{"weight_norm": {"include": r"layers\.1"}}, {"grad_norm": {"by": "total"}}]}
    expected = list(train(tmp_path, drop_layer, config))
    run = Run(tmp_path)
    assert run.steps("weight_norm/layers.1") == [1, 2]
    assert run.at("grad_norm/total")[4] == pytest.approx(expected[3]["grad"], rel=1e-5)
    assert [r.getMessage().partition(";")[0] for r in caplog.records] == [
        "metrics with include or by patterns are left out: the model has changed"
    ]


def test_moved_parameters_measured_with_new_optimizer(tmp_path: Any) -> None:
    model = Net()
    optimizers = {name: torch.optim.SGD(model.layers[n].parameters(), lr=0.1) for n, name in enumerate(("one", "two"))}
    expected: dict[str, list[tuple[int, float]]] = {"one": [], "two": []}
    config = {"every": 1, "strict": True, "metrics": [{"grad_norm": {"by": "total"}}]}
    with TbxLoop(model, optimizers, config, log_dir=tmp_path) as loop:
        for step in range(1, 5):
            if step == 3:
                bias = optimizers["one"].param_groups[0]["params"].pop()
                optimizers["two"].add_param_group({"params": [bias]})
            model.zero_grad()
            model(torch.randn(6, 4)).square().mean().backward()
            for name, optimizer in optimizers.items():
                groups = optimizer.param_groups
                expected[name].append((step, norm([p.grad for group in groups for p in group["params"]])))
                optimizer.step()
            loop.end_step()
    for name, series in expected.items():
        assert Run(tmp_path).scalars[f"grad_norm/{name}/total"] == [
            (step, pytest.approx(value, rel=1e-5)) for step, value in series
        ]
