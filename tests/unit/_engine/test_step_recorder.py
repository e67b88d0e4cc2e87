"""Tests that each number belongs to the optimizer that stepped, in the step in which it did."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import Session, TbxLoop
from tbx_callbacks._engine.training_info import TrainingInfo
from tests.helpers.runs import Run

NORMS = [{"grad_norm": {"by": "total"}}, {"update_norm": {"by": "total"}}, "learning_rate"]


def norm(tensors: Any) -> float:
    return float(torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors]).norm())


def gan() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"critic": nn.Linear(4, 1), "gen": nn.Linear(4, 4)})


def backward(model: nn.ModuleDict) -> Tensor:
    model.zero_grad()
    loss: Tensor = model["critic"](model["gen"](torch.randn(6, 4))).square().mean()
    loss.backward()
    return loss.detach()


def train(
    folder: Path, plan: Sequence[Sequence[str]], every: int = 1, metrics: Any = NORMS
) -> dict[str, list[tuple[int, float]]]:
    """Trains with the optimizers of each batch in `plan`; returns the norms of their last step of each batch."""
    model = gan()
    optimizers = {name: torch.optim.SGD(model[name].parameters(), lr=0.1) for name in model}
    expected: dict[str, list[tuple[int, float]]] = {name: [] for name in model}
    with TbxLoop(model, optimizers, {"every": every, "strict": True, "metrics": metrics}, log_dir=folder) as loop:
        for batch in plan:
            norms: dict[str, float] = {}
            for name in batch:
                backward(model)
                norms[name] = norm([p.grad for p in model[name].parameters()])
                optimizers[name].step()
            loop.end_step()
            for name, value in norms.items():
                expected[name].append((loop.step, value))
    return expected


def check(folder: Path, expected: dict[str, list[tuple[int, float]]]) -> None:
    for name, series in expected.items():
        approximate = [(step, pytest.approx(value, rel=1e-5)) for step, value in series]
        assert Run(folder).scalars.get(f"grad_norm/{name}/total", []) == approximate


@pytest.mark.parametrize(
    "plan",
    [
        [["critic", "gen"]] * 4,
        [["critic"], ["gen"]] * 3,  # in turn
        [["gen"], ["gen"], ["critic"], ["critic", "gen"]],
        [["critic"] * 3 + ["gen"]] * 3,  # several times a batch
        [["critic"], ["critic"], ["critic", "gen"]] * 2,
    ],
)
def test_several_optimizers_each_in_own_step(tmp_path: Path, plan: list[list[str]]) -> None:
    expected = train(tmp_path, plan)
    check(tmp_path, expected)
    assert Run(tmp_path).steps("lr/critic/pg1") == [step for step, _ in expected["critic"]]


def test_several_optimizers_accumulated_batches_one_step(tmp_path: Path) -> None:
    expected = train(tmp_path, [[], [], ["critic"], [], ["gen"]])
    check(tmp_path, expected)
    assert expected["gen"][-1][0] == 2


def test_due_metric_waits_for_its_optimizer(tmp_path: Path) -> None:
    plan = [["critic", "gen"] if batch % 5 == 0 else ["critic"] for batch in range(24)]  # gen: steps 1, 6, 11, 16, 21
    expected = train(tmp_path, plan, every=4)
    run = Run(tmp_path)
    assert run.steps("grad_norm/critic/total") == [4, 8, 12, 16, 20, 24]
    assert run.steps("grad_norm/gen/total") == [6, 11, 16, 21]
    assert run.at("grad_norm/gen/total")[11] == pytest.approx(dict(expected["gen"])[11], rel=1e-5)


def test_optimizer_that_never_steps_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, [["critic"]] * 250)
    assert [record.getMessage() for record in caplog.records] == [
        "metrics of gen are left out: it has not stepped for 100 steps; pass the optimizers that train this model"
    ]


def test_interval_of_repeated_step_whole(tmp_path: Path) -> None:
    train(tmp_path, [["critic", "critic", "gen"]] * 3, metrics=["throughput"])
    assert Run(tmp_path).steps("perf/step_s") == [1, 2, 3]


def test_replaced_optimizer_keeps_name(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first, expected = optimizer, []
    config = {"every": 1, "strict": True, "metrics": [*NORMS, "loss"]}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=1) as loop:
        for step in range(1, 7):
            if step == 3:
                optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
            if step == 5:
                optimizer = first  # it steps again
            loss = model(torch.randn(6, 4)).square().mean()
            loss.backward()
            expected.append((step, pytest.approx(norm([p.grad for p in model.parameters()]), rel=1e-5)))
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss)
    run = Run(tmp_path)
    assert run.scalars["grad_norm/total"] == expected
    assert run.steps("train/loss") == [1, 2, 3, 4, 5, 6]
    assert [rate for _, rate in run.scalars["train/learning_rate"]] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.1, 0.1])


def test_new_optimizer_of_new_layers_gets_name(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(model.parameters(), lr=0.1)]
    expected = []
    with TbxLoop(model, optimizers[0], {"every": 1, "strict": True, "metrics": NORMS}, log_dir=tmp_path) as loop:
        for step in range(1, 5):
            if step == 3:
                model.append(nn.Linear(4, 4))
                optimizers.append(torch.optim.SGD(model[1].parameters(), lr=0.1))
            model.zero_grad()
            model(torch.randn(6, 4)).square().mean().backward()
            if step >= 3:
                expected.append((step, pytest.approx(norm([p.grad for p in model[1].parameters()]), rel=1e-5)))
            for optimizer in optimizers:
                optimizer.step()
            loop.end_step()
    run = Run(tmp_path)
    assert run.steps("grad_norm/total") == [1, 2, 3, 4]
    assert run.scalars["grad_norm/SGD-1/total"] == expected


def test_optimizer_of_other_model_ignored(tmp_path: Path) -> None:
    model, other = nn.Linear(4, 2), nn.Linear(4, 2)
    optimizer, stranger = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other))
    with TbxLoop(model, optimizer, {"every": 1, "metrics": NORMS}, log_dir=tmp_path) as loop:
        for _ in range(3):
            for m in (model, other):
                m(torch.randn(6, 4)).square().mean().backward()
            stranger.step()
            loop.end_step()
            optimizer.step()
            stranger.step()
            loop.end_step()
    assert loop.step == 3
    assert Run(tmp_path).steps("grad_norm/total") == [1, 2, 3]


class CallsBase(torch.optim.SGD):
    """Changes the weights again after the step of its base class, which calls the hooks too."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.5)
        return loss


class ChangesGradients(torch.optim.SGD):
    """Changes gradients in its step, in a way that version counters do not show."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.data.mul_(100.0)
        return super().step(closure)


class ClearsGradients(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.zero_grad()
        return loss


@pytest.mark.parametrize("kind", [CallsBase, ChangesGradients, ClearsGradients])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("has_closure", [False, True])
def test_unusual_optimizer_gradients_of_step_begin(tmp_path: Path, kind: Any, every: int, has_closure: bool) -> None:
    model = nn.Linear(4, 2)
    optimizer = kind(model.parameters(), lr=0.01)
    gradients, updates = {}, {}
    with TbxLoop(model, optimizer, {"every": every, "strict": True, "metrics": NORMS}, log_dir=tmp_path) as loop:
        for step in range(1, 5):
            x = torch.randn(6, 4)

            def closure(x: Tensor = x, step: int = step) -> Tensor:
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                gradients[step] = norm([p.grad for p in model.parameters()])
                return loss

            before = [p.detach().clone() for p in model.parameters()]
            if not has_closure:
                closure()
            optimizer.step(*[closure] * has_closure) if kind is not ChangesGradients or not has_closure else (
                closure(),
                optimizer.step(),
            )
            updates[step] = norm([p - old for p, old in zip(model.parameters(), before, strict=True)])
            loop.end_step()
    run, steps = Run(tmp_path), range(every, 5, every)
    assert run.scalars["grad_norm/total"] == [(s, pytest.approx(gradients[s], rel=1e-5)) for s in steps]
    assert run.scalars["update_norm/total"] == [(s, pytest.approx(updates[s], rel=1e-4)) for s in steps]


def test_step_without_gradients_other_metrics_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    metrics = [*NORMS, "nonfinite", {"weight_norm": {"by": "total"}}]
    with TbxLoop(model, optimizer, {"every": 1, "strict": True, "metrics": metrics}, log_dir=tmp_path) as loop:
        for _ in range(3):
            optimizer.step()
            loop.end_step()
    run = Run(tmp_path)
    assert (
        run.steps("weight_norm/total") == run.steps("lr/SGD/pg1") == run.steps("nonfinite/weights/total") == [1, 2, 3]
    )
    assert not {"grad_norm/total", "nonfinite/gradients/total", "update_norm/total"} & set(run.scalars)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "grad_norm, update_norm, nonfinite: left out, because no gradients exist at the step of SGD; call"
        " loss.backward() before it and zero_grad() after it"
    ]


def test_step_without_gradients_own_optimizer_suspected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class OwnSgd(torch.optim.SGD):
        pass

    model = nn.Linear(4, 2)
    optimizer = OwnSgd(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, {"every": 1, "metrics": NORMS}, log_dir=tmp_path) as loop:
        optimizer.step()
        loop.end_step()
    assert "no gradients exist in p.grad at the step of OwnSgd; call loss.backward()" in caplog.text
    assert "or use another optimizer" in caplog.text


def test_trainer_step_without_optimizer_loss_wanted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(4, 2)
    info = TrainingInfo(model, torch.optim.SGD(model.parameters(), lr=0.1), log_schedule=1)
    with Session({"every": 1, "metrics": NORMS}, log_dir=tmp_path) as session:
        session.start(info, numbered=True)
        session.begin_step(1)
        session.end_step(1)
    assert "because SGD has not stepped; return the loss of each batch, and pass this model's optimizer" in caplog.text


def test_failed_step_next_step_measured(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fail() -> Tensor:
        raise RuntimeError("a batch that does not fit")

    expected = []
    with TbxLoop(model, optimizer, {"every": 1, "strict": True, "metrics": NORMS}, log_dir=tmp_path) as loop:
        for step in range(1, 4):
            if step == 2:
                with pytest.raises(RuntimeError, match="does not fit"):
                    optimizer.step(fail)
            optimizer.zero_grad()
            model(torch.randn(6, 4)).square().mean().backward()
            expected.append((step, pytest.approx(norm([p.grad for p in model.parameters()]), rel=1e-5)))
            optimizer.step()
            loop.end_step()
    assert Run(tmp_path).scalars["grad_norm/total"] == expected


@pytest.mark.parametrize("metrics", [[{"grad_norm": {"by": "total"}}], NORMS])
def test_phases_of_separate_optimizers_all_measured(tmp_path: Path, metrics: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model[1].parameters(), lr=0.1)
    expected = {}
    config = {"every": 1, "strict": True, "metrics": [*metrics, "loss"]}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=1) as loop:
        for step in range(1, 9):
            if step == 5:
                optimizer = torch.optim.Adam(model[0].parameters(), lr=0.01)
            model.zero_grad()
            loss = model(torch.ones(2, 4)).square().mean()
            loss.backward()
            part = model if step < 5 else model[0]  # parameters of no optimizer count for the first one
            expected[step] = pytest.approx(norm([p.grad for p in part.parameters()]), rel=1e-5)
            optimizer.step()
            loop.end_step(loss=loss)
    run = Run(tmp_path)
    found = {**run.at("grad_norm/total"), **run.at("grad_norm/Adam-1/total")}
    assert found == expected
    assert run.at("train/learning_rate") == {s: pytest.approx(0.1 if s < 5 else 0.01) for s in range(1, 9)}


def test_frozen_parameter_with_gradient_update_measured(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    expected = []
    with TbxLoop(model, optimizer, {"every": 1, "strict": True, "metrics": NORMS}, log_dir=tmp_path) as loop:
        for step in range(1, 6):
            if step == 3:
                model[0].requires_grad_(False)
            model(torch.randn(6, 4)).square().mean().backward()
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            change = norm([p.detach() - old for p, old in zip(model.parameters(), before, strict=True)])
            expected.append((step, pytest.approx(change, rel=1e-4)))
            optimizer.zero_grad(set_to_none=False)
            loop.end_step()
    assert Run(tmp_path).scalars["update_norm/total"] == expected
