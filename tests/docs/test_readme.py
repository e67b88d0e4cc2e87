"""Tests that the README is short and true: its examples run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tbx_callbacks import load_config
from tbx_callbacks.metrics.registry import METRICS
from tbx_callbacks.rules.registry import RULES
from tests.helpers.limits import limit
from tests.helpers.runs import ROOT, Run

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST = "first.py"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def python_block(words: str) -> str:
    (code,) = [code for language, code in BLOCKS if language == "python" and words in code]
    return str(code)


def test_readme_has_about_a_thousand_words() -> None:
    assert 900 <= len(README.split()) <= 1100


def test_readme_first_example_finds_bug(tmp_path: Path) -> None:
    code = python_block("runs/first")
    assert code.count("\n") <= 25
    (tmp_path / FIRST).write_text(code)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, FIRST], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=limit(120)
    )
    assert done.returncode == 0, done.stderr
    (shown,) = [text for language, text in BLOCKS if not language and "TBX-WIRE-006" in text]
    assert " ".join(shown.split()) in " ".join(done.stderr.split())
    wrong = Run(tmp_path / "runs" / "first")
    assert wrong.scalars["eval/accuracy"][-1][1] == pytest.approx(0.94, abs=0.01)
    assert wrong.scalars["train/loss"][-1][1] < 0.2


def test_readme_first_example_fixed_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fixed = python_block("runs/first").replace("optimizer.step()\n", "optimizer.step(); optimizer.zero_grad()\n")
    exec(fixed, {})
    accuracy = Run(tmp_path / "runs" / "first").scalars["eval/accuracy"][-1][1]
    assert accuracy == pytest.approx(0.999, abs=0.002)


def huggingface(_: Path) -> dict[str, Any]:
    from transformers import Trainer, TrainingArguments

    from tests.helpers.data import rows
    from tests.helpers.models import bert

    def arguments(folder: str, *, logging_steps: int) -> TrainingArguments:
        quiet: dict[str, Any] = {"report_to": "none", "use_cpu": True, "disable_tqdm": True}
        return TrainingArguments(folder, max_steps=logging_steps, logging_steps=logging_steps, **quiet)

    return {"Trainer": Trainer, "TrainingArguments": arguments, "model": bert(0), "train_dataset": rows(24)}


def lightning(_: Path) -> dict[str, Any]:
    import lightning as L  # noqa: N812

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(4, 3)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    points = torch.utils.data.TensorDataset(torch.randn(200, 4), torch.randint(3, (200,)))
    return {"L": L, "module": Module(), "train_loader": torch.utils.data.DataLoader(points, batch_size=4)}


def loop(_: Path) -> dict[str, Any]:
    model = torch.nn.Linear(4, 3)
    batches = [(torch.randn(5, 4), torch.randint(3, (5,))) for _ in range(10)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {
        "torch": torch,
        "model": model,
        "optimizer": optimizer,
        "criterion": torch.nn.CrossEntropyLoss(),
        "batches": batches,
    }


@pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec:FutureWarning", "ignore:.*does not have many workers"
)  # Lightning
@pytest.mark.parametrize("given", [huggingface, lightning, loop], ids=["hf", "lightning", "loop"])
def test_readme_trainer_example_writes_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Callable[[Path], dict[str, Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = {huggingface: "runs/hf", lightning: "runs/lightning", loop: "runs/loop"}[given]
    code = python_block(folder)
    assert code.count("\n") <= 12
    exec(code, given(tmp_path))
    assert Run(tmp_path / folder).steps("grad_norm/total")


def test_readme_set_loads() -> None:
    ((_, text),) = [block for block in BLOCKS if block[0] == "yaml"]
    config = load_config(yaml.safe_load(text))
    assert config.every == 50
    assert config.overhead_budget == 0.01
    assert "weight_histogram" not in {item.name for item in config.items}


def test_readme_counts_are_current() -> None:
    assert f"{len(METRICS)} metrics" in README
    assert f"{len(RULES)} rules" in README


def test_readme_commands_are_make_targets() -> None:
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()
