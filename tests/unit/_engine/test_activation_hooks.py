"""Tests activations against the test's own hooks, and that the metric's hooks exist for one forward pass only."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop
from tbx_callbacks._config.errors import ConfigError
from tests.helpers.activations import OutputRecorder, check_activations
from tests.helpers.data import collate, rows
from tests.helpers.nets import bert_like
from tests.helpers.runs import Run

SET: dict[str, Any] = {"every": 2, "metrics": ["activations"]}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), nn.Linear(8, 2))


def test_activations_of_chosen_modules_match_hooks(tmp_path: Path) -> None:
    model, names = net(), ("1", "2.1")
    outputs = OutputRecorder(model, names)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chosen = {"every": 2, "metrics": [{"activations": {"modules": r"^1$|\.1$", "bins": 10}}]}
    hooks = []
    with TbxLoop(model, optimizer, chosen, log_dir=tmp_path) as loop:
        outputs.step = lambda: loop.step + 1
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
    assert set(hooks) == {2}  # only the test's hooks remain after the first pass
    read = Run(tmp_path)
    check_activations(read, outputs, [2, 4], names)
    assert read.at("activations/1/zero_share")[2] > 0.2
    assert len(read.histograms["activations/1"][2].bucket) == 11


def test_activations_hooks_only_on_due_steps(tmp_path: Path) -> None:
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
    assert Run(tmp_path).steps("activations/0/norm") == [2]  # step 4 never ended
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "b", start_step=1):
        assert count() == 4
    assert count() == 0


def test_activations_wrong_regex_raises_before_training(tmp_path: Path) -> None:
    model = bert_like()
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


@pytest.mark.parametrize("how", ["wrapped", "in place", "unknown to the loop"])
def test_activations_compiled_model_left_out_with_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
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
    # compiled with and without hooks, not at each step
    assert counters["frames"]["total"] == (2 if how == "unknown to the loop" else 1)
    assert not counters["graph_break"]
    printed = (
        "no forward hook ran in this step"
        if how == "unknown to the loop"
        else "metric activations is disabled: in a compiled model"
    )
    (record,) = [record for record in caplog.records if record.name.startswith("tbx_callbacks")]
    assert printed in record.getMessage()
    assert not Run(tmp_path).histograms


def test_activations_half_precision_match_hooks(tmp_path: Path) -> None:
    model = bert_like().bfloat16()
    outputs = OutputRecorder(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = collate(rows(4))
    with TbxLoop(model, optimizer, {**SET, "every": 1}, log_dir=tmp_path) as loop:
        outputs.step = lambda: loop.step + 1
        for _ in range(2):
            model(**batch).loss.backward()
            optimizer.step()
            loop.end_step()
    check_activations(Run(tmp_path), outputs, [1, 2])


def test_activations_without_other_ranks_left_out(
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
    assert "its share of the data only; disabled: activations, train/loss" in caplog.text
