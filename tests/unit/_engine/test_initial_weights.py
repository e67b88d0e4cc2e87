"""Tests that a resumed training compares with the start of its first part, and leaves out what it does not know."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from tbx_callbacks import TbxLoop, load_config
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.weight_store import FileStore
from tbx_callbacks.metrics import Context, Max, Metric, Select, Sum, Values
from tbx_callbacks.writers.base import MemoryWriter
from tests.helpers.runs import Run

SET: Any = {"every": 2, "strict": True, "metrics": ["drift", {"drift": {"by": "total"}}]}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def train(folder: Path | str, steps: int, start: int = 0, state: Any = None, config: Any = SET, **changes: Any) -> Any:
    """Trains from step `start` to `steps` as a new process would; returns the state of the checkpoint."""
    model = changes.get("model") or net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    if state is not None:
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
    with TbxLoop(model, optimizer, config, log_dir=folder, log_every=2, start_step=start) as loop:
        for step in range(start, steps):
            made = torch.Generator().manual_seed(step)
            model(torch.randn(4, 6, generator=made)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step()
    return {n: t.clone() for n, t in model.state_dict().items()}, optimizer.state_dict()


def test_resumed_training_compares_with_first_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path / "whole", 8)
    state = train(tmp_path / "parts", 4)
    state = train(tmp_path / "parts", 6, 4, state)
    train(tmp_path / "parts", 8, 6, state)
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    assert whole.steps("drift/0") == [2, 4, 6, 8]
    for tag in ("drift/0", "drift/2", "drift/total", "moved_share/0"):
        assert parts.at(tag) == whole.at(tag)
    assert "drift" not in caplog.text


def left_out(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("drift: left out")]


def test_resumed_elsewhere_left_out_with_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = train(tmp_path / "first", 4)
    train(tmp_path / "second", 8, 4, state)
    assert not Run(tmp_path / "second").family("drift")
    assert left_out(caplog) == [
        "drift: left out, because the weights at the start of the resumed run are unknown: the run's folder has no file"
        " of them; keep its folder and its ranks"
    ]


@pytest.mark.parametrize("content", [b"", b"x" * 500])
def test_resumed_with_broken_file_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    state = train(tmp_path, 4)
    (tmp_path / "initial_weights" / "rank_0.bin").write_bytes(content)
    train(tmp_path, 8, 4, state)
    assert Run(tmp_path).steps("drift/0") == [2, 4]
    assert len(left_out(caplog)) == 1


def test_resumed_with_torn_file_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = train(tmp_path, 4)
    path = tmp_path / "initial_weights" / "rank_0.bin"
    os.truncate(path, path.stat().st_size // 2)
    train(tmp_path, 8, 4, state)
    assert Run(tmp_path).steps("drift/0") == [2, 4]
    assert len(left_out(caplog)) == 1


def relative_distance(now: dict[str, Any], start: dict[str, Any], names: list[str]) -> float:
    """The distance of these weights from the start, divided by the norm of the start."""
    moved = sum(float((now[name].double() - start[name].double()).square().sum()) for name in names)
    return float((moved / sum(float(start[name].double().square().sum()) for name in names)) ** 0.5)


def test_layers_frozen_at_resume_keep_drift(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = net().state_dict()
    first, _ = train(tmp_path, 4)
    model = net()
    model.load_state_dict(first)
    model[0].requires_grad_(False)
    second, _ = train(tmp_path, 8, 4, model=model)
    run = Run(tmp_path)
    assert torch.equal(second["0.weight"], first["0.weight"])
    assert run.at("drift/total")[4] == pytest.approx(relative_distance(first, start, list(start)), rel=1e-5)
    assert run.at("drift/total")[8] == pytest.approx(relative_distance(second, start, list(start)), rel=1e-5)
    assert run.at("drift/0")[8] == run.at("drift/0")[4]
    assert "drift" not in caplog.text


def test_resumed_with_all_selected_frozen_misses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config: Any = {"every": 2, "strict": True, "metrics": [{"drift": {"include": "^0"}}]}
    for start in (0, 4):
        model = net()
        model[0].requires_grad_(False)
        train(tmp_path, start + 4, start, config=config, model=model)
    assert "drift" not in caplog.text
    assert not Run(tmp_path).family("drift")


@pytest.mark.parametrize("frozen", [False, True])
def test_head_resized_at_resume_alone_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, frozen: bool) -> None:
    start = net().state_dict()
    first, _ = train(tmp_path, 4)
    model = net()
    model.load_state_dict(first)
    model[2] = nn.Linear(8, 5).requires_grad_(not frozen)
    second, _ = train(tmp_path, 8, 4, model=model)
    run = Run(tmp_path)
    expected = relative_distance(second, start, ["0.weight", "0.bias"])
    assert run.steps("drift/2") == [2, 4]
    assert run.at("drift/total")[8] == pytest.approx(expected, rel=1e-5)
    assert run.at("drift/0")[8] == pytest.approx(expected, rel=1e-5)
    assert [text for text in caplog.messages if "drift" in text] == [
        "drift of 2.weight, 2.bias: left out, because they were frozen, absent or of another size when the training"
        " began; train them from the start"
    ]


def test_resumed_with_other_shards_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = train(tmp_path, 4)
    path = tmp_path / "initial_weights" / "rank_0.bin"
    store = FileStore(str(path))
    cpu = torch.device("cpu")
    shards = [(name, f"{each.layout} of another mesh", store.read(name, cpu)) for name, each in store.entries.items()]
    FileStore.write(str(path), shards)
    train(tmp_path, 8, 4, state)
    assert Run(tmp_path).steps("drift/0") == [2, 4]
    assert "the ranks have other shards now" in left_out(caplog)[0]


def test_resumed_with_new_parameter_leaves_it_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    model[2].requires_grad_(False)
    train(tmp_path, 4, model=model)
    train(tmp_path, 8, 4, model=net())
    run = Run(tmp_path)
    assert run.steps("drift/0") == [2, 4, 6, 8]
    assert "drift/2" not in run.scalars
    assert len([text for text in caplog.messages if "drift of 2.weight, 2.bias: left out" in text]) == 1


def test_unwritable_folder_keeps_weights_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "initial_weights").write_text("a file in place of the folder")
    state = train(tmp_path / "run", 4)
    train(tmp_path / "whole", 4)
    assert Run(tmp_path / "run").at("drift/total") == Run(tmp_path / "whole").at("drift/total")
    (message,) = [text for text in caplog.messages if "initial weights are kept in memory" in text]
    assert "so drift ends if the run is resumed: their file cannot be written" in message
    train(tmp_path / "run", 8, 4, state)
    assert Run(tmp_path / "run").steps("drift/0") == [2, 4]
    assert len(left_out(caplog)) == 1


def test_remote_folder_keeps_weights_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    writer, model = MemoryWriter(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = Engine(load_config(SET).items, every=2, strict=True, writer=writer)
    engine.start(TrainingInfo(model, optimizer, log_schedule=1), folder="memory://bucket/run")
    for step in (1, 2):
        engine.begin_step(step)
        model(torch.ones(1, 6)).sum().backward()
        optimizer.step()
        engine.flush_step()
    engine.end(2, succeeded=True)
    assert [step for step, _ in writer.series("drift/total")] == [2]
    assert "initial weights" not in caplog.text


def test_file_shortened_in_training_disables_with_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {"every": 1, "metrics": ["drift", {"weight_norm": {"by": "total"}}]}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=1) as loop:
        for step in range(4):
            if step == 2:
                os.truncate(tmp_path / "initial_weights" / "rank_0.bin", 100)
            model(torch.ones(1, 6)).sum().backward()
            optimizer.step()
            loop.end_step()
    run = Run(tmp_path)
    assert run.steps("drift/0") == [1, 2]
    assert run.steps("weight_norm/total") == [1, 2, 3, 4]
    (message,) = [text for text in caplog.messages if "drift" in text]
    assert "metric drift failed at step 3 and is disabled" in message
    assert "must be a complete file of weights, but it is not" in message


def test_deleted_file_disables_with_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, {"every": 1, "metrics": ["drift"]}, log_dir=tmp_path, log_every=1) as loop:
        for step in range(3):
            if step == 1:
                (tmp_path / "initial_weights" / "rank_0.bin").unlink()
            model(torch.ones(1, 6)).sum().backward()
            optimizer.step()
            loop.end_step()
    assert Run(tmp_path).steps("drift/0") == [1]
    assert len([text for text in caplog.messages if "metric drift failed at step 2 and is disabled" in text]) == 1


def test_set_without_drift_keeps_nothing(tmp_path: Path) -> None:
    train(tmp_path, 2, config={"metrics": ["loss", "weight_norm"]})
    assert not (tmp_path / "initial_weights").exists()


def test_one_parameter_read_at_a_time_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    names: list[str] = []
    read = FileStore.read

    def watched(self: FileStore, name: str, device: torch.device) -> torch.Tensor:
        gone = [tensor() is None for tensor in alive]
        assert all(gone), "an earlier parameter is still in memory"
        tensor = read(self, name, device)
        alive.append(weakref.ref(tensor))
        names.append(name)
        return tensor

    monkeypatch.setattr(FileStore, "read", watched)
    train(tmp_path, 2)  # `drift` by layer and in total
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias"]


@dataclass(frozen=True)
class Reads(Metric):
    tags: ClassVar = {
        "reads/sum/{group}": "",
        "reads/max/{group}": "",
        "reads/squares": "",
        "reads/values/{group}": "histogram",
    }
    needs: ClassVar = frozenset({"initial_weights"})
    select: ClassVar = Select(by="total")

    def __call__(self, context: Context) -> Values:
        initial = context.initial_weights
        assert initial is not None
        shapes = [None if w is None else tuple(w.shape) for w in (initial[i] for i in range(len(initial.present)))]
        assert shapes == [tuple(parameter.tensor.shape) for parameter in context.parameters]
        histograms = context.histograms(initial, 4)
        return {
            "reads/sum/{group}": Sum(context.sum_by_group(context.weights, product, initial)),
            "reads/max/{group}": Max(context.max_by_group(initial, torch.max)),
            "reads/squares": Sum(initial.squares.sum()),
            **{f"reads/values/{name}": histogram for name, histogram in histograms.items()},
        }


def product(weights: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    return torch.dot(weights, initial)


def test_own_metric_reads_initial_weights(tmp_path: Path) -> None:
    start = torch.cat([parameter.detach().reshape(-1) for parameter in net().parameters()]).double()
    config = {"every": 2, "strict": True, "metrics": [f"{__name__}.Reads"]}
    state, _ = train(tmp_path, 2, config=config)
    now = torch.cat([tensor.reshape(-1) for tensor in state.values()]).double()
    run = Run(tmp_path)
    assert run.at("reads/sum/total")[2] == pytest.approx((start @ now).item(), rel=1e-6)
    assert run.at("reads/max/total")[2] == pytest.approx(start.max().item())
    assert run.at("reads/squares")[2] == pytest.approx(start.square().sum().item(), rel=1e-6)
    assert run.histograms["reads/values/total"][2].num == start.numel()
