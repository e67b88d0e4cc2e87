"""Tests that norms are those of the gradients that entered the step, with optimizers of torch and of other packages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from tbx_callbacks import TbxLoop, TbxTrainerCallback
from tests.helpers.models import trainer
from tests.helpers.runs import Run
from tests.helpers.variations import variations

pytestmark = pytest.mark.filterwarnings("ignore")  # optimizers and their schedules warn about settings that suit tests

SET = {
    "every": 1,
    "strict": True,
    "metrics": [
        {"grad_norm": {"by": "total"}},
        {"grad_norm_clipped": {"by": "total"}},
        {"grad_histogram": {"by": "total"}},
        {"update_norm": {"by": "total"}},
        "clip",
        "nonfinite",
        "learning_rate",
    ],
}
LIMIT = 0.05


def norm(tensors: Any) -> float:
    return float(torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors]).norm())


def check(
    run: Run, before: dict[int, float], entered: dict[int, float], updates: dict[int, float] | None = None
) -> None:
    assert run.at("grad_norm/total") == {step: pytest.approx(value, rel=1e-5) for step, value in before.items()}
    assert run.at("grad_norm_clipped/total") == {
        step: pytest.approx(value, rel=1e-5) for step, value in entered.items()
    }
    assert max(run.at("grad_norm_clipped/total").values()) <= LIMIT * (1 + 1e-6)
    for step, value in entered.items():
        assert run.histograms["grads/total"][step].sum_squares == pytest.approx(value**2, rel=1e-4)
    assert set(run.at("nonfinite/gradients/total").values()) == {0.0}
    if updates is not None:
        assert run.at("update_norm/total") == {step: pytest.approx(value, rel=1e-4) for step, value in updates.items()}


# -- the Trainer's own choice -------------------------------------------------------------------------------------

OPTIM = ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"]
OPTIM += ["schedule_free_adamw", "schedule_free_sgd", "schedule_free_radam"]


class Entering(TrainerCallback):
    """Records the norm of the gradients just before the optimizer's step."""

    def __init__(self) -> None:
        self.norms: dict[int, float] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self.norms[state.global_step + 1] = norm(gradients)


@pytest.mark.parametrize("optim", OPTIM)
@pytest.mark.parametrize("attached", variations([False, True], True))
def test_huggingface_optim_norms_of_entering_gradients(tmp_path: Path, optim: str, attached: bool) -> None:
    if optim.startswith("schedule_free"):
        pytest.importorskip("schedulefree")
    callback, entering = TbxTrainerCallback(SET), Entering()
    made = trainer(
        tmp_path,
        callbacks=[callback, entering],
        optim=optim,
        lr_scheduler_type="constant",
        max_steps=3,
        logging_steps=1,
        max_grad_norm=LIMIT,
    )
    if attached:
        callback.attach(made)
    made.train()
    logged = {log["step"]: log["grad_norm"] for log in made.state.log_history if "grad_norm" in log}
    check(Run(callback.log_dir), logged, entering.norms)


# -- loops ----------------------------------------------------------------------------------------------------------


def torch_optimizers() -> dict[str, Callable[[Any], torch.optim.Optimizer]]:
    made: dict[str, Callable[[Any], torch.optim.Optimizer]] = {}
    for name in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adagrad", "Adadelta", "Adamax", "RMSprop", "ASGD", "Rprop"):
        cls = getattr(torch.optim, name)
        for options in ({"foreach": False}, {"foreach": True}, {"fused": True}, {"maximize": True, "foreach": True}):
            try:
                cls([torch.ones(2)], lr=0.01, **options)
            except (TypeError, RuntimeError, ValueError):
                continue
            decay = {} if name == "Rprop" else {"weight_decay": 0.1}
            made[f"{name} {options}"] = partial(cls, lr=0.01, **options, **decay)
    return made


TORCH = torch_optimizers()
OTHERS = [
    "AdaBelief",
    "AdaBound",
    "Adan",
    "DiffGrad",
    "Lamb",
    "Lion",
    "MADGRAD",
    "Prodigy",
    "Ranger21",
    "ScheduleFreeAdamW",
]
OTHERS += ["StableAdamW", "SGDW", "CAME"]


def train(folder: Path, make: Callable[[Any], torch.optim.Optimizer]) -> None:
    """Trains with and without the loop's callback, and compares each number and the final weights."""
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    weights = []
    for is_watched in (True, False):
        model = copy.deepcopy(start)
        torch.manual_seed(1)
        optimizer = make(model.parameters())
        getattr(optimizer, "train", lambda: None)()
        loop = TbxLoop(model, optimizer, SET, log_dir=folder, max_grad_norm=LIMIT) if is_watched else None
        before, entered, updates = {}, {}, {}
        for step in range(1, 5):
            x = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            if loop is not None:
                loop.before_clip()
            before[step] = norm([p.grad for p in model.parameters()])
            nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
            entered[step] = norm([p.grad for p in model.parameters()])
            old = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            updates[step] = norm([p.detach() - q for p, q in zip(model.parameters(), old, strict=True)])
            if loop is not None:
                loop.end_step()
        if loop is not None:
            loop.close()
            check(Run(folder), before, entered, updates)
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(map(torch.equal, *weights))


@pytest.mark.parametrize("name", TORCH)
def test_loop_torch_optimizer_norms_exact(tmp_path: Path, name: str) -> None:
    train(tmp_path, TORCH[name])


@pytest.mark.parametrize("name", OTHERS)
def test_loop_other_optimizer_norms_exact(tmp_path: Path, name: str) -> None:
    package = pytest.importorskip("pytorch_optimizer")
    options: dict[str, Any] = {"num_iterations": 10} if name == "Ranger21" else {}
    train(tmp_path, lambda parameters: getattr(package, name)(parameters, lr=0.01, **options))


def test_loop_lion_norms_exact(tmp_path: Path) -> None:
    package = pytest.importorskip("lion_pytorch")
    train(tmp_path, lambda parameters: package.Lion(parameters, lr=0.01, weight_decay=0.1))


def test_loop_sam_last_step_of_batch_counts(tmp_path: Path) -> None:
    """SAM has no `step` of its own: two passes, of which only the second one updates with the base optimizer."""
    package = pytest.importorskip("pytorch_optimizer")
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    sam = package.SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.05)
    expected = {}
    with TbxLoop(model, sam, {"every": 1, "metrics": [{"grad_norm": {"by": "total"}}]}, log_dir=tmp_path) as loop:
        for step in range(1, 4):
            x = torch.randn(5, 6)

            def loss(x: Tensor = x) -> Tensor:
                return model(x).square().mean()

            loss().backward()
            sam.first_step(zero_grad=True)
            loss().backward()
            expected[step] = norm([p.grad for p in model.parameters()])
            sam.second_step(zero_grad=True)
            loop.end_step()
    assert Run(tmp_path).at("grad_norm/total") == {step: pytest.approx(n, rel=1e-5) for step, n in expected.items()}
