"""Activations against hooks of the tests' own, and that ours are there for one forward pass only."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop, TbxTrainerCallback
from tbx_callbacks._config.errors import ConfigError
from tests.helpers.data import FULL, collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run

LAYERS = ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler", "classifier")
SET: dict[str, Any] = {"every": 2, "metrics": ["activations"]}


class LiveRule:
    """Keeps the output of every call of some modules in training mode, by the step that the test says."""

    def __init__(self, model: nn.Module, names: tuple[str, ...] = LAYERS) -> None:
        self.calls: dict[tuple[int, str], list[Tensor]] = {}
        self.step: Callable[[], int] = lambda: 0
        for name in names:
            model.get_submodule(name).register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, outputs: Any) -> None:
            if module.training:
                first = outputs if isinstance(outputs, Tensor) else outputs[0]
                self.calls.setdefault((self.step(), name), []).append(first.detach().double().clone())

        return hook


def check(read: Run, watched: LiveRule, steps: list[int], names: tuple[str, ...] = LAYERS) -> None:
    assert {tag.removeprefix("activations/").rpartition("/")[0] for tag in read.scalars if tag[0] == "a"} == {*names}
    for name in names:
        assert read.steps(f"activations/{name}/norm") == list(read.histograms[f"activations/{name}"]) == steps
        for step in steps:
            x = watched.calls[step, name][0]
            assert read.at(f"activations/{name}/norm")[step] == pytest.approx(x.square().mean().sqrt().item(), rel=1e-5)
            mean = pytest.approx(x.mean().item(), rel=1e-5, abs=1e-7)
            assert read.at(f"activations/{name}/mean")[step] == mean
            zeros = (x == 0).double().mean().item()
            assert read.at(f"activations/{name}/zero_share")[step] == pytest.approx(zeros, rel=1e-5)
            proto = read.histograms[f"activations/{name}"][step]
            assert proto.num == x.numel()
            assert (proto.min, proto.max) == pytest.approx((x.min().item(), x.max().item()), rel=1e-5)
            assert proto.sum_squares == pytest.approx(x.square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["plain", "reentrant", "not reentrant"])
def test_hf(tmp_path: Path, attached: bool, checkpointing: bool | None) -> None:
    # transformers repeats what is inside a layer, and other code whole layers: hooks inside see a second pass.
    names = (*LAYERS[:3], "bert.encoder.layer.0.attention", "bert.encoder.layer.1.attention.self.query")
    model = bert()
    callback = TbxTrainerCallback({"every": 2, "metrics": [{"activations": {"modules": f"^({'|'.join(names)})$"}}]})
    watched = LiveRule(model, names)
    options: dict[str, Any] = {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    if checkpointing is not None:
        options |= {
            "activation_checkpointing": True,
            "activation_checkpointing_kwargs": {"use_reentrant": checkpointing},
        }
    run = trainer(tmp_path, model=model, callbacks=[callback], max_steps=4, **options)
    watched.step = lambda: run.state.global_step + 1
    if attached:
        callback.attach(run)
    run.train()
    check(Run(callback.log_dir), watched, [2, 4], names)
    calls = [len(watched.calls[2, name]) for name in names[3:]]
    assert calls == ([2, 2] if checkpointing is None else [4, 4])  # the test's own hook sees the repeated passes


def test_the_models_layers_are_the_default(tmp_path: Path) -> None:
    model, callback = bert(), TbxTrainerCallback(SET)
    watched = LiveRule(model)
    run = trainer(tmp_path, model=model, callbacks=[callback], max_steps=4)
    watched.step = lambda: run.state.global_step + 1
    run.train()
    check(Run(callback.log_dir), watched, [2, 4])


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), nn.Linear(8, 2))


def test_loop_with_modules_of_ones_choice(tmp_path: Path) -> None:
    model, names = net(), ("1", "2.1")
    watched = LiveRule(model, names)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chosen = {"every": 2, "metrics": [{"activations": {"modules": r"^1$|\.1$", "bins": 10}}]}
    hooks = []
    with TbxLoop(model, optimizer, chosen, log_dir=tmp_path) as loop:
        watched.step = lambda: loop.step + 1
        for _ in range(4):
            for _ in range(3):
                loss = model(torch.randn(5, 4)).square().mean()
                hooks.append(sum(len(module._forward_hooks) for module in model.modules()))
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step()
            model.eval()
            model(torch.randn(5, 4))
            model.train()
    assert set(hooks) == {2}  # the test's own: ours are gone as soon as the first pass is over
    read = Run(tmp_path)
    check(read, watched, [2, 4], names)
    assert read.at("activations/1/zero_share")[2] > 0.2
    assert len(read.histograms["activations/1"][2].bucket) == 11


def test_hooks_are_there_only_in_due_steps_and_gone_after_an_exception(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def count() -> int:
        return sum(len(module._forward_hooks) for module in model.modules())

    class Boom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ZeroDivisionError

    loop = TbxLoop(model, optimizer, SET, log_dir=tmp_path)
    counts = [count()]
    for _ in range(3):
        model(torch.randn(5, 4)).sum().backward()
        optimizer.step()
        loop.end_step()
        counts.append(count())
    assert counts == [0, 4, 0, 4]  # three layers and the model itself
    model[1] = Boom()
    with pytest.raises(ZeroDivisionError):
        model(torch.randn(5, 4))
    assert count() == 0
    model[1] = nn.ReLU()
    loop.close()
    assert Run(tmp_path).steps("activations/0/norm") == [2]  # step 4 was never finished
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "b", start_step=1):
        assert count() == 4
    assert count() == 0


def test_a_wrong_regex_stops_before_training(tmp_path: Path) -> None:
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for regex, message in (
        (
            "bert.encodr",
            "modules must match at least one module's name, got 'bert.encodr'; near names: bert",
        ),
        ("(", r"modules must be a valid regular expression, got '\('"),
    ):
        with pytest.raises(ConfigError, match=message):
            TbxLoop(model, optimizer, {"metrics": [{"activations": {"modules": regex}}]}, log_dir=tmp_path)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("how", ["wrapped", "in place", "behind our back"])
def test_compiled_models_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model = Net()
    compiled: Any = torch.compile(model, backend="eager") if how != "in place" else model
    if how == "in place":
        model.compile(backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = compiled if how == "wrapped" else model
    with caplog.at_level(logging.WARNING), TbxLoop(given, optimizer, SET, log_dir=tmp_path) as loop:
        for _ in range(8):
            compiled(torch.randn(5, 4)).square().mean().backward()
            optimizer.step()
            loop.end_step()
    assert counters["frames"]["total"] == (
        2 if how == "behind our back" else 1
    )  # with hooks and without, not each time
    assert not counters["graph_break"]
    said = (
        "no forward hook ran in this step"
        if how == "behind our back"
        else "metric activations is disabled: in a compiled model"
    )
    (record,) = [record for record in caplog.records if record.name.startswith("tbx_callbacks")]
    assert said in record.getMessage()
    assert not Run(tmp_path).histograms


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_run_is_unharmed_under_gradient_checkpointing(tmp_path: Path, reentrant: bool) -> None:
    results = []
    for callbacks in ([TbxTrainerCallback(FULL)], []):
        run = trainer(
            tmp_path,
            callbacks=callbacks,
            max_steps=6,
            logging_steps=1,
            activation_checkpointing=True,
            activation_checkpointing_kwargs={"use_reentrant": reentrant},
        )
        run.train()
        results.append((run.model.state_dict(), torch.get_rng_state()))
    (watched, watched_rng), (plain, plain_rng) = results
    assert all(torch.equal(watched[name], plain[name]) for name in plain)
    assert torch.equal(watched_rng, plain_rng)


def test_half_precision(tmp_path: Path) -> None:
    model = bert().bfloat16()
    watched = LiveRule(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = collate(rows(4))
    with TbxLoop(model, optimizer, {**SET, "every": 1}, log_dir=tmp_path) as loop:
        watched.step = lambda: loop.step + 1
        for _ in range(2):
            model(**batch).loss.backward()
            optimizer.step()
            loop.end_step()
    check(Run(tmp_path), watched, [1, 2])


def test_one_ranks_share_is_not_written_as_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path) as loop:
        for _ in range(2):
            model(torch.randn(5, 4)).sum().backward()
            optimizer.step()
            loop.end_step()
    assert not Run(tmp_path).histograms
    assert "its share of the data only; disabled: activations" in caplog.text
