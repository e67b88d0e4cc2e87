"""Tests the distance from the initial weights against float64 computed over all parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop
from tests.helpers.runs import Run

SET = {"every": 2, "strict": True, "metrics": ["drift", {"drift": {"by": "total"}}]}
Weights = dict[str, Tensor]


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2)).to(dtype)


def weights(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def real(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double().reshape(-1)


def expected(start: Weights, now: Weights, prefix: str) -> tuple[float, float]:
    """Drift and moved share of the parameters whose names begin with a prefix."""
    chosen = [name for name in start if name.startswith(prefix)]
    before, after = (torch.cat([real(each[name]) for name in chosen]) for each in (start, now))
    return ((after - before).norm() / before.norm()).item(), (after != before).double().mean().item()


def train(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | dict[str, torch.optim.Optimizer],
    *,
    steps: int = 4,
    config: Any = SET,
    before: Callable[[int], None] = lambda step: None,
    **options: Any,
) -> tuple[Run, dict[int, Weights]]:
    """Trains; returns the run, and the weights at the start (0) and after each step."""
    made = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    by_step = {options.get("start_step", 0): weights(model)}
    optimizers = list(optimizer.values()) if isinstance(optimizer, dict) else [optimizer]
    with TbxLoop(model, optimizer, config, log_dir=folder, log_every=2, **options) as loop:
        for step in range(options.get("start_step", 0) + 1, steps + 1):
            before(step)
            loss = (model(torch.randn(4, 6, generator=made).to(dtype)) + 1).abs().square().sum()
            loss.backward()
            for each in optimizers:
                each.step()
                each.zero_grad()
            loop.end_step(loss=loss)
            by_step[step] = weights(model)
    return Run(folder), by_step


def check(run: Run, by_step: dict[int, Weights], groups: dict[str, str], *, rel: float = 1e-6) -> None:
    """Asserts that the run has the numbers of float64 at each due step; `groups` are prefixes by group."""
    start = by_step[0]
    assert run.family("drift") == run.family("moved_share") == set(groups)
    for group, prefix in groups.items():
        for step in run.steps(f"drift/{group}"):
            drift, moved = expected(start, by_step[step], prefix)
            assert run.at(f"drift/{group}")[step] == pytest.approx(drift, rel=rel)
            assert run.at(f"moved_share/{group}")[step] == pytest.approx(moved)


LAYERS = {"0": "0.", "2": "2.", "4": "4.", "total": ""}


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_drift_matches_float64_over_all_parameters(tmp_path: Path, dtype: torch.dtype) -> None:
    model = net(dtype)
    run, by_step = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=1e-3))
    assert run.steps("drift/total") == [2, 4]
    check(run, by_step, LAYERS)
    if dtype == torch.bfloat16:
        assert run.at("moved_share/total")[4] < 0.9  # it rounds updates away


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_drift_of_extreme_weights_right(tmp_path: Path, scale: float) -> None:
    model = nn.Linear(6, 3, bias=False)
    with torch.no_grad():
        model.weight.mul_(scale)

    def before(step: int) -> None:
        with torch.no_grad():
            model.weight.mul_(1 + 1e-3)

    start = weights(model)
    run, by_step = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.0), before=before)
    by_step[0] = {name: tensor * (1 + 1e-3) for name, tensor in start.items()}  # as the first step finds them
    check(run, by_step, {"weight": "", "total": ""}, rel=1e-4)


def test_drift_nan_weight_written_as_nan(tmp_path: Path) -> None:
    model = net()

    def before(step: int) -> None:
        if step == 3:
            with torch.no_grad():
                model[2].weight[0, 0] = float("nan")

    run, _ = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=1e-3), before=before)
    for tag in ("drift/2", "moved_share/2", "moved_share/total"):
        assert run.at(tag)[4] != run.at(tag)[4]
        assert run.at(tag)[2] > 0
    assert run.at("drift/0")[2] > 0


@pytest.mark.parametrize("change", ["deleted", "shortened"])
def test_drift_file_lost_in_training_clear(tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    model, path = net(), tmp_path / "initial_weights" / "rank_0.bin"

    def before(step: int) -> None:
        if step == 3:
            path.unlink() if change == "deleted" else path.write_bytes(path.read_bytes()[:100])

    config = {"every": 2, "metrics": ["drift", "weight_norm"]}
    run, _ = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=1e-3), steps=6, config=config, before=before)
    assert run.steps("drift/0") == [2]
    assert run.steps("weight_norm/0") == [2, 4, 6]
    why = "No such file or directory" if change == "deleted" else "must be a complete file of weights, but it is not"
    assert "must stay until the training ends, but they cannot be read: " in caplog.text
    assert why in caplog.text
    assert caplog.text.count("metric drift failed at step 4 and is disabled") == 1


def test_drift_frozen_parameters_have_no_part(tmp_path: Path) -> None:
    model = net()
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    run, by_step = train(tmp_path, model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    trained = {
        step: {n: t for n, t in each.items() if n in ("2.weight", "4.weight", "4.bias")}
        for step, each in by_step.items()
    }
    check(run, trained, {"2": "2.", "4": "4.", "total": ""})
    assert (tmp_path / "initial_weights" / "rank_0.bin").stat().st_size < 4 * (16 * 16 + 16 * 2 + 2) + 1000


def test_drift_unfrozen_later_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    model[0].requires_grad_(False)

    def before(step: int) -> None:
        model[0].requires_grad_(step > 2)

    run, by_step = train(tmp_path, model, torch.optim.AdamW(model.parameters(), lr=1e-2), steps=6, before=before)
    trained = {step: {n: t for n, t in each.items() if n[0] != "0"} for step, each in by_step.items()}
    check(run, trained, {"2": "2.", "4": "4.", "total": ""})
    (message,) = [text for text in caplog.messages if "drift" in text]
    assert message == (
        "drift of 0.weight, 0.bias: left out, because they were frozen, absent or of another size when the training"
        " began; train them from the start"
    )


def test_drift_frozen_later_stays(tmp_path: Path) -> None:
    model = net()

    def before(step: int) -> None:
        model[0].requires_grad_(step < 3)

    run, by_step = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=1e-2), steps=6, before=before)
    check(run, by_step, LAYERS)
    assert run.at("drift/0")[6] == run.at("drift/0")[4] > 0


def test_drift_replaced_module_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def before(step: int) -> None:
        if step == 3:
            model[4] = nn.Linear(16, 3)  # resized
            optimizer.add_param_group({"params": list(model[4].parameters())})

    run, by_step = train(tmp_path, model, optimizer, steps=6, before=before)
    assert run.steps("drift/4") == [2]
    for layer in ("0", "2"):
        assert run.at(f"drift/{layer}")[6] == pytest.approx(expected(by_step[0], by_step[6], f"{layer}.")[0], rel=1e-6)
    old = {n: t for n, t in by_step[0].items() if n[0] != "4"}
    assert run.at("drift/total")[6] == pytest.approx(expected(old, by_step[6], "")[0], rel=1e-6)
    assert len([text for text in caplog.messages if "drift of 4.weight, 4.bias: left out" in text]) == 1


def test_drift_resized_in_place_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    model.extra = nn.Parameter(torch.ones(3))

    def before(step: int) -> None:
        if step == 3:
            model.extra.data = torch.ones(5)

    run, by_step = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=1e-3), before=before)
    assert run.at("drift/extra") == {2: 0.0}
    assert run.at("drift/0")[4] == pytest.approx(expected(by_step[0], by_step[4], "0.")[0], rel=1e-6)
    assert len([text for text in caplog.messages if "drift of extra: left out" in text]) == 1


def test_drift_tied_parameters_count_once(tmp_path: Path) -> None:
    model = net()
    model.append(nn.Linear(2, 16))
    model[5].weight = nn.Parameter(torch.randn(16, 2))
    model[2].weight = nn.Parameter(torch.randn(16, 16))
    model[0].bias = model[2].bias
    run, by_step = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=1e-3))
    check(run, by_step, {**LAYERS, "5": "5."})


def test_drift_zero_start_left_out_finite_total(tmp_path: Path) -> None:
    model = net()
    nn.init.zeros_(model[4].weight)
    nn.init.zeros_(model[4].bias)
    run, by_step = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=1e-2))
    assert "drift/4" not in run.scalars
    assert run.at("moved_share/4")[4] > 0
    assert run.at("drift/total")[4] == pytest.approx(expected(by_step[0], by_step[4], "")[0], rel=1e-6)


def test_drift_several_optimizers_own_groups(tmp_path: Path) -> None:
    model = net()
    optimizers = {
        "slow": torch.optim.SGD(model[0].parameters(), lr=1e-3),
        "fast": torch.optim.AdamW([*model[2].parameters(), *model[4].parameters()], lr=1e-2),
    }
    run, by_step = train(tmp_path, model, optimizers)
    assert run.family("drift") == {"slow/0", "slow/total", "fast/2", "fast/4", "fast/total"}
    assert run.at("drift/slow/0")[4] == pytest.approx(expected(by_step[0], by_step[4], "0.")[0], rel=1e-6)
    assert run.at("drift/fast/2")[4] == pytest.approx(expected(by_step[0], by_step[4], "2.")[0], rel=1e-6)


def test_drift_weights_loaded_after_loop_creation_count(tmp_path: Path) -> None:
    model, other = net(), net()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3)

    def before(step: int) -> None:
        if step == 1:
            model.load_state_dict(other.state_dict())

    run, by_step = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=1e-3), before=before)
    check(run, {**by_step, 0: weights(other)}, LAYERS)


def test_drift_accumulation_and_clipping_right(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    start = weights(model)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=2, max_grad_norm=0.1) as loop:
        for batch in range(8):
            loss = model(torch.randn(4, 6)).square().sum() / 2
            loss.backward()
            if batch % 2:
                loop.before_clip()
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()
            loop.end_step(loss=loss)
    assert Run(tmp_path).at("drift/total")[4] == pytest.approx(expected(start, weights(model), "")[0], rel=1e-6)


def test_drift_compiled_model_same_tags(tmp_path: Path) -> None:
    model = net()
    compiled: Any = torch.compile(model, backend="eager")
    run, by_step = train(tmp_path, compiled, torch.optim.SGD(model.parameters(), lr=1e-3))
    start, end = ({n.removeprefix("_orig_mod."): t for n, t in by_step[step].items()} for step in (0, 4))
    assert run.at("drift/2")[4] == pytest.approx(expected(start, end, "2.")[0], rel=1e-6)


def test_drift_two_trainings_own_start(tmp_path: Path) -> None:
    model = net()
    for name in ("first", "second"):
        run, by_step = train(tmp_path / name, model, torch.optim.AdamW(model.parameters(), lr=1e-2))
        check(run, by_step, LAYERS)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "LBFGS"])
def test_drift_training_bit_identical(tmp_path: Path, optimizer: str) -> None:
    ends, states = [], []
    for watched in (True, False):
        model = net()
        torch.manual_seed(3)
        chosen = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-2)
        config = {**SET, "every": 1} if watched else {"metrics": ["loss"]}
        with TbxLoop(model, chosen, config, log_dir=tmp_path / str(watched), log_every=1) as loop:
            for _ in range(4):
                batch = torch.randn(4, 6)

                def closure(batch: Tensor = batch, model: nn.Module = model, chosen: Any = chosen) -> Tensor:
                    chosen.zero_grad()
                    loss = model(batch).square().sum()
                    loss.backward()
                    return loss

                loop.end_step(loss=chosen.step(closure))
        ends.append(weights(model))
        states.append(torch.get_rng_state())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert torch.equal(*states)


def test_drift_selection_keeps_chosen_only(tmp_path: Path) -> None:
    model = net()
    config = {"every": 2, "strict": True, "metrics": [{"drift": {"include": r"^2\."}}]}
    run, by_step = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=1e-3), config=config)
    check(run, by_step, {"2": "2."})
    assert (tmp_path / "initial_weights" / "rank_0.bin").stat().st_size < 4 * (16 * 16 + 16) + 600
