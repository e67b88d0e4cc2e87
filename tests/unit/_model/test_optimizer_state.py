"""Tests each known optimizer's state against naive formulas, and the warning about unknown ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.optimizers import rms, run, trained

ADAMS: dict[str, Callable[[Any], Any]] = {
    "adam": lambda m: torch.optim.Adam(m.parameters(), lr=1e-2, weight_decay=0.1),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.0, betas=(0.8, 0.9)),
    "fused": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.0, fused=True),
    "amsgrad": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.0, amsgrad=True),
    "groups": lambda m: torch.optim.AdamW(
        [{"params": m["a"].parameters(), "lr": torch.tensor(0.5)}, {"params": m["b"].parameters(), "lr": 0.1}],
        weight_decay=0.0,
    ),
}


@pytest.mark.parametrize("name", ADAMS)
def test_adam_state_matches_naive_formula(tmp_path: Path, name: str) -> None:
    read, model, optimizer, changes = run(tmp_path, ADAMS[name])
    every = trained(model)
    for moment in ("exp_avg", "exp_avg_sq"):
        state = {key: optimizer.state[p][moment].double() for key, p in every.items()}
        assert read.family(f"optimizer_state/{moment}") == {*every, "total"}
        for key, tensor in state.items():
            assert read.at(f"optimizer_state/{moment}/{key}")[4] == pytest.approx(tensor.norm().item(), rel=1e-5)
    # Without decoupled decay the step equals the change of the weights: a second check of the value.
    assert read.steps("optimizer_state/effective_lr/total") == [2, 4]
    for step in (2, 4):
        moved = {key: changes[step][key] for key in every}
        assert read.at("optimizer_state/effective_lr/total")[step] == pytest.approx(rms([*moved.values()]), rel=1e-4)
    for key, p in every.items():
        state, group = optimizer.state[p], next(g for g in optimizer.param_groups if any(p is q for q in g["params"]))
        m, number = state["exp_avg"].double(), float(state["step"])
        v = state["max_exp_avg_sq" if name == "amsgrad" else "exp_avg_sq"].double()
        beta1, beta2 = group["betas"]
        naive = float(group["lr"]) * (m / (1 - beta1**number)) / ((v / (1 - beta2**number)).sqrt() + group["eps"])
        assert read.at(f"optimizer_state/effective_lr/{key}")[4] == pytest.approx(rms([naive]), rel=1e-5)


def test_sgd_momentum_state_matches_naive_formula(tmp_path: Path) -> None:
    read, model, optimizer, changes = run(
        tmp_path, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    )
    for key, p in trained(model).items():
        buffer = optimizer.state[p]["momentum_buffer"].double()
        assert read.at(f"optimizer_state/momentum_buffer/{key}")[4] == pytest.approx(buffer.norm().item(), rel=1e-5)
        assert read.at(f"optimizer_state/effective_lr/{key}")[4] == pytest.approx(rms([0.1 * buffer]), rel=1e-5)
        assert read.at(f"optimizer_state/effective_lr/{key}")[4] == pytest.approx(rms([changes[4][key]]), rel=1e-3)
    assert not [tag for tag in read.scalars if "exp_avg" in tag]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"maximize": True}])
def test_sgd_nesterov_effective_lr_matches_step(tmp_path: Path, options: dict[str, Any]) -> None:
    read, model, _, changes = run(
        tmp_path, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True, **options)
    )
    for key in trained(model):
        for step in (2, 4):
            moved = rms([changes[step][key]])
            assert read.at(f"optimizer_state/effective_lr/{key}")[step] == pytest.approx(moved, rel=1e-3)


def test_adafactor_weight_decay_not_in_effective_lr(tmp_path: Path) -> None:
    rate, decay = 0.05, 0.5
    read, model, _, changes = run(
        tmp_path, lambda m: torch.optim.Adafactor(m.parameters(), lr=rate, weight_decay=decay)
    )
    for key, p in trained(model).items():
        old = p.detach().double() + changes[4][key]
        moved = rms([changes[4][key] - rate * decay * old])
        assert read.at(f"optimizer_state/effective_lr/{key}")[4] == pytest.approx(moved, rel=2e-3), key


def test_unknown_optimizer_no_effective_lr_with_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read, *_ = run(tmp_path, lambda m: torch.optim.RAdam(m.parameters()))
    assert read.family("optimizer_state/exp_avg")
    assert not read.family("optimizer_state/effective_lr")
    assert caplog.text.count("no known formula for the optimizer's step, so optimizer_state/effective_lr") == 1


@pytest.mark.parametrize(
    ("make", "keeps"),
    [
        (lambda m: torch.optim.Adagrad(m.parameters()), "Adagrad keeps step, sum"),
        (lambda m: torch.optim.SGD(m.parameters()), "SGD keeps nothing"),
    ],
)
def test_optimizer_without_moments_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, keeps: str
) -> None:
    with caplog.at_level(logging.WARNING):
        read, *_ = run(tmp_path, make)
    assert read.family("optimizer_state") == set()
    lacks = "no exp_avg, exp_avg_sq or momentum_buffer, so optimizer_state/ is not written"
    assert caplog.text.count(f"{lacks}: {keeps}") == 1


ADAFACTORS: dict[str, Callable[[Any], Any]] = {
    "torch": lambda m: torch.optim.Adafactor(m.parameters(), lr=1e-2),
    "torch, fast": lambda m: torch.optim.Adafactor(m.parameters(), lr=0.9, d=1.5),
    "torch, small weights": lambda m: torch.optim.Adafactor(m.parameters(), lr=0.1, eps=(None, 2.0)),
    "torch, maximize": lambda m: torch.optim.Adafactor(m.parameters(), lr=0.3, maximize=True),
}


@pytest.mark.parametrize("name", ADAFACTORS)
def test_adafactor_effective_lr_matches_step(tmp_path: Path, name: str) -> None:
    read, model, _, changes = run(tmp_path, ADAFACTORS[name])
    exact = 0.15 if "warming up" in name else 2e-3  # steps of 1e-7 are near the precision of the weights
    for key in trained(model):
        for step in (2, 4):
            moved = rms([changes[step][key]])
            assert read.at(f"optimizer_state/effective_lr/{key}")[step] == pytest.approx(moved, rel=exact), key


def test_adafactor_moments_match_naive(tmp_path: Path) -> None:
    read, model, optimizer, _ = run(tmp_path, lambda m: torch.optim.Adafactor(m.parameters(), lr=1e-2))
    for key, p in trained(model).items():
        state = optimizer.state[p]
        if p.ndim == 1:
            second = state["variance"].double()
        else:
            row, column = state["row_var"].double(), state["col_var"].double()
            second = row @ column / row.mean(dim=-2, keepdim=True).clamp(min=torch.finfo(torch.float32).eps)
        assert second.shape == p.shape
        assert read.at(f"optimizer_state/exp_avg_sq/{key}")[4] == pytest.approx(second.norm().item(), rel=1e-5)
    assert read.family("optimizer_state/exp_avg") == set()
