"""Tests the page that leads from the tensorboardX tutorial to this package: its code runs, its claims hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboardX import SummaryWriter

from tbx_callbacks import TbxLoop, load_config
from tbx_callbacks.writers.tensorboard import LogDirError
from tests.helpers.runs import ROOT, Run

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FAQ = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
SETS = [text for language, text in BLOCKS if language == "yaml"]


def block(*words: str) -> str:
    (code,) = [code for language, code in BLOCKS if language == "python" and all(word in code for word in words)]
    return str(code)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "criterion": torch.nn.CrossEntropyLoss(),
        "batches": [(torch.randn(5, 4), torch.randint(3, (5,))) for _ in range(10)],
        "accuracy": 0.5,
        "epoch": 0,
        "rank": 0,
        "TbxLoop": TbxLoop,
    }


def test_tutorial_lines_of_tensorboardx_run(names: dict[str, Any], tmp_path: Path) -> None:
    for words in (("import SummaryWriter",), ("writer.add_scalar", "    writer"), ("add_histogram",)):
        exec(next(code for _, code in BLOCKS if all(word in code for word in words)), names)
    names["optimizer"].zero_grad()
    with pytest.raises(AttributeError):
        exec(block("add_histogram"), names)
    names["writer"].close()
    assert Run(tmp_path / "runs" / "tutorial").steps("Loss/train") == list(range(20))


def test_tutorial_loop_writes_both_curves(names: dict[str, Any], tmp_path: Path) -> None:
    exec(block("loop.evaluate"), names)
    read = Run(tmp_path / "runs" / "tutorial")
    assert read.steps("Loss/train") == list(range(20))
    assert read.steps("train/loss") == list(range(10, 201, 10))
    assert read.steps("grad_norm/total")
    assert read.steps("eval/accuracy")
    exec(block("plot_losses"), names)
    assert (tmp_path / "loss.html").stat().st_size > 0
    assert {"train/loss", "eval/accuracy"} <= set(read.scalars)


def test_tutorial_set_writes_histograms_by_parameter(names: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "my_metrics.yaml").write_text(SETS[0])

    def train(loop: TbxLoop) -> None:
        names["criterion"](names["model"](names["batches"][0][0]), names["batches"][0][1]).backward()
        names["optimizer"].step()
        loop.end_step()

    exec(block("my_metrics.yaml").replace("...", "train(loop)"), {**names, "train": train})
    histograms = Run(tmp_path / "runs" / "parameters").histograms
    assert {tag for tag in histograms if tag.startswith("weights/")} == {
        f"weights/{name}" for name, _ in names["model"].named_parameters()
    }


@pytest.mark.parametrize("text", SETS, ids=["by_parameter", "fewer"])
def test_tutorial_sets_replace_histograms(text: str) -> None:
    items = [item for item in load_config(yaml.safe_load(text)).items if item.name == "weight_histogram"]
    assert len(items) == 1


def test_tutorial_shown_error_is_raised(names: dict[str, Any]) -> None:
    too_long = "x" * 300
    with pytest.raises(LogDirError) as raised:
        TbxLoop(names["model"], names["optimizer"], log_dir=f"{too_long}/tutorial")
    shown = re.search(r"```\n(cannot write a run to .*?)```", PAGE, re.DOTALL)
    assert shown is not None
    parts = r"'[^']+': \[Errno \d+\] [^:]+: '[^']+'"
    assert re.sub(parts, "...", shown.group(1).strip()) == re.sub(parts, "...", str(raised.value))


def test_tutorial_loop_on_one_rank_runs(names: dict[str, Any], tmp_path: Path) -> None:
    exec(block("runs/ranks"), names)
    assert Run(tmp_path / "runs" / "ranks").steps("train/loss")


@pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning")  # TensorBoard's own import
def test_tutorial_limits_are_those_of_tensorboard() -> None:
    from tensorboard.backend.event_processing.data_ingester import DEFAULT_TENSOR_SIZE_GUIDANCE as LIMITS
    from tensorboard.plugins.histogram.histograms_plugin import HistogramsPlugin

    shown = re.search(r"at most (\d+) scalars, (\d+) histograms and (\d+) images", PAGE)
    assert shown is not None
    assert [int(number) for number in shown.groups()] == [LIMITS[name] for name in ("scalars", "histograms", "images")]
    kept, drawn = LIMITS["histograms"], HistogramsPlugin.SAMPLE_SIZE
    assert f"keeps {kept} steps of each histogram, and its tab Histograms draws {drawn}" in FAQ


def test_tutorial_writer_is_that_of_tensorboardx(names: dict[str, Any], tmp_path: Path) -> None:
    with TbxLoop(names["model"], names["optimizer"], log_dir=tmp_path / "run") as loop:
        assert isinstance(loop.writer, SummaryWriter)
