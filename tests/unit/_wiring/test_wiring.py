"""Tests when checks run, and that their errors end the checks only."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F  # noqa: N812

from tbx_callbacks._wiring.batches import STEPS
from tbx_callbacks._wiring.wiring import Wiring


def start(model: nn.Module, optimizer: torch.optim.Optimizer, errors: list[BaseException] | None = None) -> Wiring:
    failed: list[BaseException] = [] if errors is None else errors
    return Wiring(model, {"SGD": optimizer}, dict(model.named_parameters()), on_error=failed.append)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, wiring: Wiring, steps: int) -> list[dict[str, Any]]:
    points = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        labels = torch.randint(0, 2, (8,))
        loss = F.cross_entropy(model(torch.randn(8, 3)), labels)
        loss.backward()
        wiring.before_step("SGD", step)
        optimizer.step()
        wiring.after_step("SGD", optimizer, step)
        wiring.add_batch(loss, 8)
        points.append(wiring.take())
    return points


def hooks_of(model: nn.Module) -> int:
    tensors = [hooks for p in model.parameters() for hooks in (p._backward_hooks, p._post_accumulate_grad_hooks)]
    return sum(len(module._forward_hooks) for module in model.modules()) + sum(len(hooks or ()) for hooks in tensors)


def test_wiring_first_steps_then_few_checks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wiring = start(model, optimizer)
    points = train(model, optimizer, wiring, STEPS + 2)
    assert {"first_loss_not_finite", "double_softmax", "eval_mode_in_training"} <= points[0].keys()
    assert {"no_gradient", "gradients_not_cleared", "parameter_not_optimized"} <= points[STEPS - 1].keys()
    assert points[-1].keys() == {"eval_mode_in_training", "weights_changed_outside"}
    found = {name: float(check.number) for point in points for name, check in point.items()}
    assert found.pop("first_loss_unusual") == pytest.approx(1, abs=0.5)
    assert found.pop("first_loss") == pytest.approx(math.log(2), abs=0.4)
    assert {name for name, value in found.items() if value > 0} == set()
    assert hooks_of(model) == 0
    assert not wiring.is_open


def test_wiring_short_training_judged_at_end() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wiring = start(model, optimizer)
    assert "no_gradient" not in train(model, optimizer, wiring, 1)[0]
    assert "no_gradient" in wiring.end()
    assert hooks_of(model) == 0


def test_wiring_error_reported_and_hooks_removed() -> None:
    model = nn.Linear(3, 2)
    optimizer, errors = torch.optim.SGD(model.parameters(), 0.1), list[BaseException]()
    wiring = start(model, optimizer, errors)

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("a batch without attributes")

    wiring._batches = Broken()  # type: ignore[assignment]
    train(model, optimizer, wiring, 2)
    assert [str(error) for error in errors] == ["a batch without attributes"]
    assert hooks_of(model) == 0


@pytest.mark.parametrize("steps", [1, 2, 8], ids=["in the first steps", "twice in them", "later"])
@pytest.mark.parametrize("gets_optimizer", [False, True])
def test_wiring_replaced_layer_judged_by_later_steps(steps: int, gets_optimizer: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wiring = start(model, optimizer)
    for change in range(2 if steps == 2 else 1):
        train(model, optimizer, wiring, 1 if change else steps)
        model[1] = nn.Linear(4, 2)
        if gets_optimizer:
            optimizer.param_groups[0]["params"] = list(model.parameters())
        wiring.changed(dict(model.named_parameters()))
    points = train(model, optimizer, wiring, 3)
    expected = 0 if gets_optimizer else 2
    assert points[-1]["parameter_not_optimized"].number == expected
    assert points[-1]["parameter_not_in_model"].number == expected
    assert ("no_gradient" in points[-1]) == (steps < 8)


@pytest.mark.parametrize("steps", [1, 8])
def test_wiring_replaced_layer_judged_at_end(steps: int) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wiring = start(model, optimizer)
    train(model, optimizer, wiring, steps)
    model[1] = nn.Linear(4, 2)
    wiring.changed(dict(model.named_parameters()))
    assert "parameter_not_optimized" not in train(model, optimizer, wiring, 1)[0]
    assert wiring.end()["parameter_not_optimized"].number == 2


def test_wiring_parameters_that_change_each_step_closed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wiring = start(model, optimizer)
    for _ in range(6):
        model[1] = nn.Linear(4, 2)
        wiring.changed(dict(model.named_parameters()))
        train(model, optimizer, wiring, 1)
    assert not wiring.is_open


def test_wiring_in_fully_compiled_model_no_break() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wiring = start(model, optimizer)
    wiring.watch_evaluations()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)  # a hook that breaks the graph would raise
    for step in range(1, 6):
        optimizer.zero_grad()
        compiled(torch.randn(8, 3)).sum().backward()
        wiring.before_step("SGD", step)
        optimizer.step()
        wiring.after_step("SGD", optimizer, step)
        wiring.take()
    assert counter.frame_count == 1
    wiring.end()


def test_wiring_first_loss_is_that_of_training() -> None:
    """A model may return a loss that the training does not minimise, or not alone."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.layer(inputs)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    for distils in (False, True):
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        wiring = start(model, optimizer)
        outputs = model(torch.randn(8, 3), labels=torch.randint(0, 2, (8,)))
        loss = outputs["loss"] + outputs["logits"].square().mean() if distils else outputs["loss"]
        loss.backward()
        optimizer.step()
        wiring.after_step("SGD", optimizer, 1)
        wiring.add_batch(loss, 8)
        checks = wiring.end()
        assert ("first_loss" in checks) != distils
        assert "first_loss_unusual" in checks


@pytest.mark.parametrize("order", [("head", "body"), ("body", "head")])
def test_wiring_cut_between_two_optimizers_found(order: tuple[str, str]) -> None:
    model = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2)})
    wired = nn.Sequential(model["body"], model["head"])
    optimizers = {name: torch.optim.SGD(model[name].parameters(), 0.1) for name in order}
    wiring = Wiring(wired, optimizers, dict(wired.named_parameters()), on_error=lambda error: pytest.fail(str(error)))
    cut = wired[0].register_forward_hook(lambda module, args, output: output.detach())
    for step in range(1, STEPS + 1):
        wired(torch.randn(8, 3)).square().mean().backward()
        for name in order:
            optimizers[name].step()
            wiring.after_step(name, optimizers[name], step)
        wiring.add_batch(None, 8)
    assert wiring.take()["no_gradient"].number == 2
    cut.remove()
    assert hooks_of(wired) == 0


def test_wiring_converted_model_has_same_weights() -> None:
    model = nn.Linear(3, 2)
    wiring = start(model, torch.optim.SGD(model.parameters(), 0.1))
    assert not wiring.have_weights_changed()
    model.half()
    assert not wiring.have_weights_changed()
    with torch.no_grad():
        model.bias += 1
    assert wiring.have_weights_changed()


def test_wiring_weights_that_cannot_be_compared_end_checks() -> None:
    model, errors = nn.Linear(3, 2), list[BaseException]()
    wiring = start(model, torch.optim.SGD(model.parameters(), 0.1), errors)
    wiring._first_weights = [(model.bias, None)]  # type: ignore[list-item]
    assert not wiring.have_weights_changed()
    assert len(errors) == 1
    assert hooks_of(model) == 0


def test_wiring_adapters_counted_beside_frozen_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), 0.1)
    assert "adapters" not in train(model, optimizer, start(model, optimizer), STEPS)[-1]
    model[1].lora_A = nn.Linear(4, 2)
    assert float(train(model, optimizer, start(model, optimizer), STEPS)[-1]["adapters"].number) == 2
