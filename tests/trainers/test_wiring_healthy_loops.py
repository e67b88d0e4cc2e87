"""Tests that unusual but sound loops are not warned of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tbx_callbacks import TbxLoop
from tbx_callbacks.rules import diagnose
from tbx_callbacks.rules.wiring import RULES
from tbx_callbacks.runs import read_run


def net(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, outputs))


def batch() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(16, 8)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long()


Open = Callable[..., TbxLoop]
STEPS = 20


def lbfgs(start: Open) -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    with start(model, optimizer) as loop:
        for _ in range(STEPS):
            inputs, labels = batch()

            def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs), labels)
                loss.backward()
                return loss

            loop.end_step(loss=optimizer.step(closure), samples=16)


def sharpness_aware(start: Open) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with start(model, optimizer) as loop:
        for _ in range(STEPS):
            inputs, labels = batch()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            with torch.no_grad():
                moves = [0.05 * each.grad / (each.grad.norm() + 1e-12) for each in model.parameters()]
                for each, move in zip(model.parameters(), moves, strict=True):
                    each.add_(move)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            with torch.no_grad():
                for each, move in zip(model.parameters(), moves, strict=True):
                    each.sub_(move)
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=16)


def two_tasks(start: Open) -> None:
    model = nn.ModuleDict({"heads": nn.ModuleList([net(3), net(3)]), "body": nn.Linear(8, 8)})
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    with start(model, optimizer) as loop:
        for _ in range(STEPS):
            optimizer.zero_grad()
            inputs, labels = batch()
            for head in model["heads"]:
                loss = F.cross_entropy(head(model["body"](inputs)), labels)
                loss.backward()
            optimizer.step()
            loop.end_step(loss=loss, samples=16)


def shared_encoder(start: Open) -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(8, 8), "head": net(3), "critic": net(1)})
    optimizers = {
        "task": torch.optim.Adam([*model["encoder"].parameters(), *model["head"].parameters()]),
        "critic": torch.optim.Adam([*model["encoder"].parameters(), *model["critic"].parameters()]),
    }
    with start(model, optimizers) as loop:
        for _ in range(STEPS):
            inputs, labels = batch()
            loss = F.cross_entropy(model["head"](model["encoder"](inputs)), labels)
            other = -F.binary_cross_entropy_with_logits(model["critic"](model["encoder"](inputs)), torch.ones(16, 1))
            for name, each in (("task", loss), ("critic", other)):
                model.zero_grad()
                each.backward()
                optimizers[name].step()
            loop.end_step(loss=loss, samples=16)


def maximize(start: Open) -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, maximize=True)
    with start(model, optimizer) as loop:
        for _ in range(STEPS):
            optimizer.zero_grad()
            inputs, labels = batch()
            likelihood = -F.cross_entropy(model(inputs), labels)
            likelihood.backward()
            optimizer.step()
            loop.end_step(loss=likelihood, samples=16)


def traced(start: Open) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    with start(model, optimizer) as loop:
        for _ in range(STEPS):
            inputs, labels = batch()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                torch.jit.trace(model.eval(), inputs)
            model.train()
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            loop.end_step(loss=loss, samples=16, labels=labels)


def functional(start: Open) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def loss_of(parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, parameters, (inputs,)), labels)

    with start(model, optimizer) as loop:
        for _ in range(STEPS):
            inputs, labels = batch()
            gradients, loss = torch.func.grad_and_value(loss_of)(dict(model.named_parameters()), inputs, labels)
            for name, parameter in model.named_parameters():
                parameter.grad = gradients[name].detach()
            optimizer.step()
            loop.end_step(loss=loss.detach(), samples=16)


def own_step(start: Open) -> None:
    model = net()
    with start(model, torch.optim.SGD(model.parameters(), 0.1)) as loop:
        for _ in range(STEPS):
            inputs, labels = batch()
            model.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            loop.end_step(loss=loss, samples=16)


def ordinal(start: Open) -> None:
    """Three levels by two logits, and an ignored label other than -100."""
    model = net(2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    with start(model, optimizer) as loop:
        for _ in range(STEPS):
            optimizer.zero_grad()
            inputs, labels = batch()
            labels[0] = -1
            outputs = model(inputs)
            levels = (labels[:, None] > torch.arange(2)).float()
            loss = F.binary_cross_entropy_with_logits(outputs, levels)
            loss.backward()
            optimizer.step()
            loop.end_step(loss=loss, samples=16, outputs=outputs, labels=labels)


def averaged(start: Open) -> None:
    """Slow weights, towards which the fast ones go back after each fifth step."""
    model = net()
    optimizer, slow = (
        torch.optim.AdamW(model.parameters(), 1e-2),
        [each.detach().clone() for each in net().parameters()],
    )
    with start(model, optimizer) as loop:
        for step in range(1, STEPS + 1):
            optimizer.zero_grad()
            inputs, labels = batch()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            if step % 5 == 0:
                with torch.no_grad():
                    for each, average in zip(model.parameters(), slow, strict=True):
                        each.copy_(average.lerp_(each, 0.5))
            loop.end_step(loss=loss, samples=16)


LOOPS = (lbfgs, sharpness_aware, two_tasks, shared_encoder, maximize, traced, functional, own_step, ordinal, averaged)


@pytest.mark.parametrize("train", LOOPS, ids=lambda train: train.__name__)
def test_wiring_sound_loop_not_warned_of(
    train: Callable[[Open], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    train(lambda model, optimizer: TbxLoop(model, optimizer, log_dir=str(tmp_path / "run"), log_every=5))
    assert [line for line in caplog.messages if line.startswith(("warning TBX-WIRE", "error TBX-WIRE"))] == []
    assert not any("checking the wiring" in line for line in caplog.messages)
    findings = diagnose(read_run(tmp_path / "run")).findings
    assert [finding.id for finding in findings if finding.id in RULES and finding.severity != "note"] == []
