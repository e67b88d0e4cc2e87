"""Tests that plain loops write the same tags, steps and values as the trainers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop
from tbx_callbacks.runs import read_run
from tests.helpers.data import EVERY_KIND as SET
from tests.helpers.data import FULL
from tests.helpers.processes import python
from tests.helpers.runs import Run, files


def norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors]).norm())


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def data(seed: int = 1) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(6, 4, generator=made), torch.randint(0, 2, (6,), generator=made)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().double().clone() for name, p in model.named_parameters()}


def train(
    loop: TbxLoop | None,
    model: nn.Module,
    optimizer: Any,
    steps: int = 8,
    clip: float | None = None,
    accumulate: int = 1,
) -> dict[int, Any]:
    """Trains the tutorial loop; returns the values of a naive second implementation by step."""
    seen, weights = {}, copied(model)
    for step in range(1, steps + 1):
        losses = []
        for micro in range(accumulate):
            x, y = data(100 * step + micro)
            loss = nn.functional.cross_entropy(model(x), y) / accumulate
            loss.backward()
            losses.append(loss.item())
            if loop is not None and micro < accumulate - 1:
                loop.end_step(loss=loss, samples=len(x), tokens=3)
        gradients = [p.grad.clone() for p in model.parameters()]
        if clip is not None:
            if loop is not None:
                loop.before_clip()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        clipped = [p.grad.clone() for p in model.parameters()]
        optimizer.zero_grad()
        if loop is not None:
            loop.end_step(loss=loss, samples=len(x), tokens=3)
        before, weights = weights, copied(model)
        seen[step] = {"before": norm(gradients), "after": norm(clipped), "losses": losses, "weights": weights}
        seen[step]["update"] = {name: weights[name] - before[name] for name in weights}
    return seen


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_loop_metrics_match_naive_computation(tmp_path: Path, accumulate: int, clip: float | None) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "run", log_every=2, max_grad_norm=clip) as loop:
        seen = train(loop, model, optimizer, clip=clip, accumulate=accumulate)
        loop.evaluate(accuracy=0.75, loss=0.5)
    read = Run(tmp_path / "run")
    assert read.steps("grad_norm/total") == read.steps("train/loss") == [2, 4, 6, 8]
    for step in (2, 4, 6, 8):
        assert read.at("grad_norm/total")[step] == pytest.approx(seen[step]["before"], rel=1e-5)
        assert read.at("grad_norm_clipped/total")[step] == pytest.approx(seen[step]["after"], rel=1e-5)
        losses = seen[step - 1]["losses"] + seen[step]["losses"]
        assert read.at("train/loss")[step] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        weights = {name: norm([w]) for name, w in seen[step]["weights"].items()}
        assert {name: read.at(f"weight_norm/{name}")[step] for name in weights} == pytest.approx(weights, rel=1e-5)
        update = norm(list(seen[step]["update"].values()))
        assert read.at("update_ratio/total")[step] == pytest.approx(
            update / norm([*seen[step]["weights"].values()]), rel=1e-5
        )
        layer = norm([seen[step]["update"][f"2.{name}"] for name in ("weight", "bias")])
        assert read.at("update_norm/2")[step] == pytest.approx(layer, rel=1e-5)
        rates = [read.at(f"perf/{unit}_per_s")[step] for unit in ("steps", "samples", "tokens")]
        assert rates[1] / rates[0] == pytest.approx(6 * accumulate)
        assert rates[2] / rates[0] == pytest.approx(3 * accumulate)
    assert list(read.at("lr/SGD/pg1").values()) == pytest.approx([0.1] * 4)
    assert list(read.histograms["weights/0"]) == [1, 4, 8]  # and the first step
    assert read.at("eval/accuracy") == {8: 0.75}
    assert read.at("best/accuracy") == {8: 0.75}
    assert len(files(tmp_path / "run")) == 1


def test_loop_training_with_callback_unchanged(tmp_path: Path) -> None:
    results = []
    for watched in (True, False):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        options: dict[str, Any] = {"log_dir": tmp_path / "run", "log_every": 1}
        loop = TbxLoop(model, optimizer, FULL, **options) if watched else None
        train(loop, model, optimizer)
        if loop is not None:
            loop.close()
        results.append((model.state_dict(), torch.get_rng_state()))
    (watched_state, watched_rng), (plain_state, plain_rng) = results
    assert all(torch.equal(watched_state[name], plain_state[name]) for name in plain_state)
    assert torch.equal(watched_rng, plain_rng)


def test_loop_without_end_step_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, {"every": 1, "metrics": [{"weight_norm": {"by": "total"}}]}, log_dir=tmp_path):
        train(None, model, optimizer, steps=5)
    assert Run(tmp_path).steps("weight_norm/total") == [1]
    assert [record.getMessage() for record in caplog.records] == [
        "only one step is written: optimizers stepped 5 times, but no batch was reported; call end_step after each"
        " batch"
    ]


def test_loop_steps_per_epoch_gives_epochs(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {"metrics": [{"weight_norm": {"by": "total", "every": {"epochs": 1}}}]}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, steps_per_epoch=3) as loop:
        train(loop, model, optimizer)
    assert Run(loop.log_dir).steps("weight_norm/total") == [3, 6]
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1, got 0; leave it out if it is unknown"):
        TbxLoop(model, optimizer, config, log_dir=tmp_path, steps_per_epoch=0)


def test_loop_several_optimizers_own_parameters(tmp_path: Path) -> None:
    model = nn.ModuleDict({"generator": nn.Linear(4, 4), "critic": nn.Linear(4, 1)})
    optimizers = {name: torch.optim.SGD(model[name].parameters(), lr=0.1) for name in ("generator", "critic")}
    expected: dict[str, list[float]] = {name: [] for name in optimizers}
    with TbxLoop(model, optimizers, {"every": 1, "metrics": ["learning_rate", "grad_norm"]}, log_dir=tmp_path) as loop:
        for _ in range(3):
            for name, optimizer in optimizers.items():
                # Also leaves gradients in the other optimizer's parameters, as adversarial training does.
                model["critic"](model["generator"](torch.randn(5, 4))).square().mean().backward()
                expected[name].append(norm([p.grad for p in model[name].parameters()]))
                optimizer.step()
                optimizer.zero_grad()
            loop.end_step()
    read = Run(tmp_path)
    assert set(read.scalars) == {
        "lr/generator/pg1", "lr/critic/pg1", "grad_norm/generator/generator", "grad_norm/critic/critic",
    }  # fmt: skip
    for name, values in expected.items():
        series = read.scalars[f"grad_norm/{name}/{name}"]
        assert series == [(step, pytest.approx(value, rel=1e-5)) for step, value in enumerate(values, 1)]


def test_loop_closure_counts_one_step(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    x, y = data()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    metrics = ["loss", {"weight_norm": {"by": "total"}}]
    with TbxLoop(model, optimizer, {"every": 1, "metrics": metrics}, log_dir=tmp_path, log_every=1) as loop:
        for step in range(1, 4):
            loop.end_step(loss=optimizer.step(closure), samples=6)
            assert loop.step == step
            weights = norm(list(model.parameters()))
    read = Run(tmp_path)
    assert read.steps("train/loss") == [1, 2, 3]
    assert read.scalars["weight_norm/total"][-1] == (3, pytest.approx(weights, rel=1e-5))


def test_loop_exception_marks_run_failed(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fail() -> None:
        with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=1) as loop:
            train(loop, model, optimizer, steps=5)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    read = Run(tmp_path)
    assert read.steps("train/loss") == [1, 2, 3, 4, 5]
    ended = metadata.parse_session_end_info_plugin_data(read.plugin("hparams")["_hparams_/session_end_info"])
    assert ended.status == 2
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks


def test_loop_start_step_continues_folder(tmp_path: Path) -> None:
    for start in (0, 3):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=1, start_step=start) as loop:
            train(loop, model, optimizer, steps=5)
            assert loop.step == start + 5
    assert Run(tmp_path).steps("train/loss") == list(range(1, 9))


def test_loop_nan_loss_counted(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=2) as loop:
        for step in range(1, 5):
            model(data()[0]).mean().backward()
            optimizer.step()
            loop.end_step(loss=math.nan if step == 2 else 1.0, samples=6)
    assert Run(tmp_path).at("nonfinite/losses") == {2: 1.0, 4: 0.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TbxLoop(net(), "adam"), "an optimizer must be a torch.optim.Optimizer, got str"),
        (
            lambda: TbxLoop(net(), torch.optim.SGD(net().parameters()), log_every=0),
            "log_every must be at least 1 step, got 0",
        ),
    ],
)
def test_loop_wrong_argument_raises(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.slow
def test_loop_other_ranks_write_nothing(tmp_path: Path) -> None:
    code = """
import os, torch
from tbx_callbacks import TbxLoop
for rank in ("1", "0"):
    os.environ["RANK"] = rank
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, "full", log_dir="logs") as loop:
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            loop.before_clip()
            optimizer.step()
            loop.end_step(loss=1.0)
            loop.log("aux/x", 1.0)
            loop.writer.add_text("a", "b")
        loop.evaluate(accuracy=1.0)
    assert os.path.exists("logs") == (rank == "0")
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "logs").exists()


def test_loop_without_other_ranks_leaves_out_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=2) as loop:
        train(loop, model, optimizer)
    read = Run(tmp_path)
    assert read.steps("grad_norm/total") == [2, 4, 6, 8]
    assert not {"train/loss", "perf/samples_per_s", "perf/tokens_per_s", "nonfinite/losses"} & set(read.scalars)
    assert caplog.text.count("would cover its share of the data only") == 1
    assert re.search(r"disabled: .*\bthroughput, .*train/loss; unset it", caplog.text)
    assert "WORLD_SIZE=2 is set without a process group" in caplog.text


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"])
def test_loop_leftover_rank_variable_named_once(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(variable, "1")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "run", log_every=2) as loop:
        train(loop, model, optimizer)
        loop.evaluate(accuracy=0.5)
    assert not (tmp_path / "run").exists()
    (record,) = caplog.records
    assert f"this process writes no run: {variable}=1 is set, but there is no process group" in record.message


def test_loop_leftover_rank_without_steps_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "3")
    model = net()
    with TbxLoop(model, torch.optim.SGD(model.parameters(), lr=0.1), SET, log_dir=tmp_path / "run") as loop:
        loop.evaluate(accuracy=0.5)
    assert caplog.text.count("RANK=3 is set") == 1


def test_loop_late_group_of_one_rank_keeps_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "run", log_every=2) as loop:
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            train(loop, model, optimizer)
        finally:
            torch.distributed.destroy_process_group()
    assert Run(tmp_path / "run").steps("train/loss") == [2, 4, 6, 8]
    assert not caplog.records


def test_loop_wrong_process_group_raises() -> None:
    model = net()
    with pytest.raises(TypeError, match="process_group must be a group of"):
        TbxLoop(model, torch.optim.SGD(model.parameters(), lr=0.1), SET, process_group=[0, 1])


def test_loop_default_device_changes_nothing(tmp_path: Path) -> None:
    """On "meta" a tensor made on the default device instead of the CPU has no elements."""
    runs = {}
    for name in ("cpu", "meta"):
        torch.manual_seed(0)
        model, (inputs, labels) = net(), data()
        optimizer = torch.optim.AdamW(model.parameters())
        loop = TbxLoop(model, optimizer, replace(FULL, strict=True), log_dir=tmp_path / name, log_every=1)
        with loop, torch.device(name):
            for _ in range(3):
                loss = nn.functional.cross_entropy(model(inputs), labels)
                loss.backward()
                loop.before_clip()
                optimizer.step()
                optimizer.zero_grad()
                loop.end_step(loss=loss, samples=len(inputs))
                loop.log("mine/loss", loss)
        runs[name] = Run(tmp_path / name)
    assert set(runs["cpu"].scalars) == set(runs["meta"].scalars)
    assert set(runs["cpu"].histograms) == set(runs["meta"].histograms) != set()
    for tag in ("grad_norm/total", "weight_norm/total", "mine/loss"):
        assert runs["meta"].at(tag) == runs["cpu"].at(tag)


OWN = {"every": 2, "metrics": ["loss", {"weight_norm": {"by": "total"}}]}


def steps_of(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Iterator[int]:
    for step in range(1, number + 1):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        yield step


def test_loop_scalar_after_optimizer_step_belongs_to_it(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, OWN, log_dir=tmp_path) as loop:
        for step in steps_of(model, optimizer, 5):
            loop.log("aux/step", step)
            loop.end_step()
    assert Run(tmp_path).scalars["aux/step"] == [(2, 1.5), (4, 3.5), (5, 5.0)]


@pytest.mark.parametrize("cadence", [1, 2, 3, "log"])
def test_loop_scalars_of_evaluation_stay_apart(tmp_path: Path, cadence: Any) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, {**OWN, "every": cadence}, log_dir=tmp_path, log_every=2) as loop:

        def forward(number: float) -> None:
            loop.log("aux/number", number)

        for step in steps_of(model, optimizer, 6):
            forward(1.0)
            loop.end_step()
            if step % 2 == 0:
                model.eval()
                for batch in range(3):
                    forward(100.0 * step + batch)
                loop.evaluate(accuracy=0.5)
                model.train()
    read = Run(tmp_path)
    assert {value for _, value in read.scalars["aux/number"]} == {1.0}
    assert read.scalars["eval/aux/number"] == [(2, 201.0), (4, 401.0), (6, 601.0)]
    assert read.steps("eval/accuracy") == [2, 4, 6]


def test_loop_evaluation_sets_named_apart(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, OWN, log_dir=tmp_path) as loop:
        for step in steps_of(model, optimizer, 2):
            loop.end_step()
            model.eval()
            for name in ("dev", "hard"):
                loop.log("aux/number", step + len(name))
                loop.evaluate(name, accuracy=len(name))
            model.train()
    read = Run(tmp_path)
    assert read.scalars["eval/dev/aux/number"] == [(1, 4.0), (2, 5.0)]
    assert read.scalars["eval/hard/aux/number"] == [(1, 5.0), (2, 6.0)]
    assert read.at("eval/dev_accuracy") == {1: 3.0, 2: 3.0}
    assert "aux/number" not in read.scalars


def test_loop_log_dict_logs_each_value(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, OWN, log_dir=tmp_path) as loop:
        for step in steps_of(model, optimizer, 2):
            loop.log_dict({"a/x": step, "a/y": torch.tensor(2.0 * step)})
            loop.end_step()
    read = Run(tmp_path)
    assert (read.at("a/x"), read.at("a/y")) == ({2: 1.5}, {2: 3.0})


def test_loop_hparams_recorded_by_itself(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    metrics = {"every": 1, "metrics": ["loss", "hparams"]}
    with TbxLoop(
        model, optimizer, metrics, log_dir=tmp_path, max_grad_norm=0.25, hparams={"path": Path("a"), "type": None}
    ) as loop:
        optimizer.step()
        loop.end_step(loss=1.0)
    read = Run(tmp_path)
    recorded = metadata.parse_session_start_info_plugin_data(read.plugin("hparams")["_hparams_/session_start_info"])
    values = {name: value.number_value or value.string_value for name, value in recorded.hparams.items()}
    assert values == {
        "optimizer": "AdamW", "learning_rate": 0.5, "weight_decay": 0.01, "max_grad_norm": 0.25, "path": "a",
        "type": "None",
    }  # fmt: skip
    assert json.loads(read.texts["args"][0].strip("`json\n")) == {"path": "a", "type": "None"}


@pytest.mark.parametrize("normed", [nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_loop_parametrized_layers_one_norm_each(tmp_path: Path, normed: Callable[[nn.Module], Any]) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"enc": nn.Linear(4, 4), "fc": nn.Linear(4, 2)})
    for layer in model.values():
        normed(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    metrics = [{"grad_norm": {"by": "layer"}}, {"weight_norm": {"by": "module"}}, {"activations": {"modules": "."}}]
    with TbxLoop(model, optimizer, {"every": 1, "metrics": metrics}, log_dir=tmp_path) as loop:
        model["fc"](model["enc"](torch.randn(6, 4))).square().mean().backward()
        expected = {name: pytest.approx(norm([p.grad for p in layer.parameters()])) for name, layer in model.items()}
        optimizer.step()
        loop.end_step()
    read = Run(tmp_path)
    assert {name: read.at(f"grad_norm/{name}")[1] for name in read.family("grad_norm")} == expected
    assert read.family("weight_norm") == {"enc", "fc"}
    assert {tag.rpartition("/")[0] for tag in read.family("activations")} <= {"enc", "fc"}


@pytest.mark.parametrize("divided", ["before", "after", "never", "without accumulation"])
def test_loop_divided_loss_noticed_once(tmp_path: Path, divided: str, caplog: pytest.LogCaptureFixture) -> None:
    model, accumulate = net(), 1 if divided == "without accumulation" else 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, {"metrics": ["loss"]}, log_dir=tmp_path, log_every=1) as loop:
        for batch in range(8 * accumulate):
            x, y = data(batch)
            loss = nn.functional.cross_entropy(model(x), y)
            if divided != "never":
                part = loss / 4
                part.backward()
                loss = loss if divided == "after" else part
            else:
                loss.backward()
            if (batch + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
            loop.end_step(loss=loss)
    printed = [record.getMessage() for record in caplog.records]
    line = (
        "train/loss may be too small: 4 batches make a step, and end_step gets a loss divided after its mean;"
        " pass the undivided loss"
    )
    assert printed == ([line] if divided == "before" else [])


def test_loop_evaluation_context_keeps_values_apart(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, OWN, log_dir=tmp_path) as loop:
        for step in steps_of(model, optimizer, 4):
            loop.log("t", 1.0)
            loop.end_step()
            if step == 3:
                with loop.evaluation():
                    loop.log("t", 100.0)
                    loop.evaluate("dev", accuracy=1.0)
    read = Run(tmp_path)
    assert read.scalars["t"] == [(2, 1.0), (4, 1.0)]
    assert read.scalars["eval/dev/t"] == [(3, 100.0)]


@pytest.mark.parametrize("left", [1, 3])
def test_loop_unfinished_accumulation_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, left: int) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, OWN, log_dir=tmp_path) as loop:
        for batch in range(1, 8 + left + 1):
            loss = model(torch.ones(1, 4)).sum()
            loss.backward()
            if batch % 4 == 0:
                optimizer.step()
            loop.end_step(loss=loss)
    assert not caplog.records


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"samples": -3}, "samples must be at least 0, got -3; leave it out if it is unknown"),
        ({"samples": "x"}, "samples must be a whole number, got 'x'; pass len\\(batch\\), or leave it out"),
        ({"samples": 2.5}, "samples must be a whole number, got 2.5"),
        ({"tokens": [1]}, "tokens must be a whole number, got \\[1\\]"),
        ({"loss": "a"}, "loss must be a number or a tensor, got 'a'; pass the loss of the batch"),
    ],
)
def test_loop_wrong_batch_argument_refused(tmp_path: Path, arguments: dict[str, Any], error: str) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        TbxLoop(model, optimizer, OWN, log_dir=tmp_path) as loop,
        pytest.raises((TypeError, ValueError), match=error),
    ):
        loop.end_step(**arguments)


def test_loop_samples_of_any_integer_counted(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mask = torch.ones(4, dtype=torch.int64)
    with TbxLoop(model, optimizer, {"every": 1, "metrics": ["throughput"]}, log_dir=tmp_path) as loop:
        for _ in steps_of(model, optimizer, 3):
            loop.end_step(samples=mask.sum())
    assert min(value for _, value in Run(tmp_path).scalars["perf/samples_per_s"]) > 0


def test_loop_optimizer_of_other_model_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    optimizer = torch.optim.SGD(nn.Linear(4, 2).parameters(), lr=0.1)
    with TbxLoop(nn.Linear(4, 2), optimizer, OWN, log_dir=tmp_path):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "numbers of the optimizer do not belong to the model: it trains none of its parameters; pass the model and the"
        " optimizer that trains it"
    ]


def test_loop_replaced_model_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, OWN, log_dir=tmp_path) as loop:
        for step in range(1, 9):
            if step == 5:
                model = nn.Linear(4, 2)
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
            loop.end_step()
    assert [record.getMessage() for record in caplog.records] == [
        "no step is written: no optimizer of this model has stepped in 4 micro-batches; call optimizer.step(), and"
        " pass the optimizer that has this model's parameters"
    ]


LEFT = """
import sys, torch
from tbx_callbacks import TbxLoop
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def train():
    loop = TbxLoop(model, optimizer, {{"every": 1, "metrics": ["loss", "hparams"]}}, log_dir=sys.argv[1])
    loss = model(torch.ones(4, 2)).square().mean()
    loss.backward()
    optimizer.step()
    loop.end_step(loss=loss)
    {inside}
    return loop
{outside}
"""


@pytest.mark.parametrize(
    ("inside", "outside", "status"),
    [
        ("", "loop = train()", "succeeded"),
        ("loop.close()", "train()", "succeeded"),
        ("raise ValueError", "loop = train()", "failed"),
        ("", "loop = train(); raise ValueError", "failed"),
        ("", "try: loop = train(); 1 / 0\nfinally: loop.close()", "failed"),
        ("", "train()", ""),
        ("", "loop = train(); del loop", ""),
    ],
    ids=["exit", "close", "raised inside", "raised outside", "closed by finally", "dropped", "deleted"],
)
def test_loop_left_open_status_of_exit(tmp_path: Path, inside: str, outside: str, status: str) -> None:
    code = LEFT.format(inside=inside, outside=outside)
    done = python("-c", code, tmp_path / "run")
    assert done.returncode == ("raise" in code or "1 / 0" in code), done.stderr
    assert read_run(tmp_path / "run").status == status
    assert ("the run has no end: its loop was dropped" in done.stderr) == (status == "")
    assert read_run(tmp_path / "run").scalars["train/loss"].steps.tolist() == [1]
