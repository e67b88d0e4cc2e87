"""Tests the example of docs/test-your-training.md: it fails on ten faults and passes on ten healthy trainings."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tbx_callbacks.training_check import TrainingCheck
from tests.helpers.limits import limit
from tests.helpers.models import bert
from tests.helpers.runs import ROOT

PAGE = (ROOT / "docs" / "test-your-training.md").read_text(encoding="utf-8")
EXAMPLE = re.findall(r"```python\n(# tests/test_training.py\n.*?)```", PAGE, re.DOTALL)[0]
FAULTS = {
    "softmax": "double_softmax",
    "maximised": "loss_maximised",
    "head_not_optimized": "parameter_not_optimized",
    "labels_ignored": "labels_ignored",
    "detached_body": "no_gradient",
    "rate_too_high": "learning_rate_too_high",
    "nan_in_data": "nonfinite",
    "random_labels": "underfitting",
    "rate_zero": "underfitting",
    "head_replaced": "parameter_not_in_model",
}
Parts = tuple[nn.Module, list[Any], torch.optim.Optimizer, Callable[[nn.Module, Any], Any]]


class Classifier(nn.Module):
    def __init__(self, fault: str = "", *extra: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), *extra)
        self.head, self.fault = nn.Linear(32, 3), fault

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs)
        logits: Tensor = self.head(hidden.detach() if self.fault == "detached_body" else hidden)
        return logits.softmax(-1) if self.fault == "softmax" else logits


def rows(number: int = 640) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(number, 8)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long()


def batches(inputs: Tensor, labels: Tensor, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model(batch[0])
    return F.cross_entropy(logits, batch[1]), {"logits": logits}


def faulty(fault: str) -> Parts:
    inputs, labels = rows()
    if fault == "labels_ignored":
        labels[:] = -100
    if fault == "nan_in_data":
        inputs[100, 0] = torch.nan
    if fault == "random_labels":
        labels = torch.randint(0, 3, (len(labels),))
    model = Classifier(fault)
    trained = model.body if fault == "head_not_optimized" else model
    rate = {"rate_too_high": 10.0, "rate_zero": 0.0}.get(fault, 1e-2)
    optimizer = torch.optim.AdamW(trained.parameters(), rate)
    if fault == "head_replaced":
        model.head = nn.Linear(32, 3)

    def maximised(model: nn.Module, batch: Any) -> Any:
        loss, outputs = cross_entropy(model, batch)
        return -loss, outputs

    return model, batches(inputs, labels), optimizer, maximised if fault == "maximised" else cross_entropy


def healthy(kind: str) -> Parts:
    inputs, labels = rows()
    model: nn.Module = Classifier(
        "", *([nn.Dropout(0.2)] * (kind == "dropout") + [nn.BatchNorm1d(32)] * (kind == "norm"))
    )
    adamw = torch.optim.AdamW(model.parameters(), 1e-2)
    if kind == "sgd":
        return model, batches(inputs, labels), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), cross_entropy
    if kind == "small_batches":
        return model, batches(inputs, labels, 4), torch.optim.AdamW(model.parameters(), 5e-3), cross_entropy
    if kind == "frozen_body":
        model.body.requires_grad_(False)
        return model, batches(inputs, labels), torch.optim.AdamW(model.head.parameters(), 5e-2), cross_entropy
    if kind == "regression":
        targets = inputs @ torch.randn(8, 3)
        return model, batches(inputs, targets), adamw, lambda model, batch: F.mse_loss(model(batch[0]), batch[1])
    if kind == "binary":
        binary = (inputs[:, :3] > 0).float()
        logits_loss = F.binary_cross_entropy_with_logits
        return model, batches(inputs, binary), adamw, lambda model, batch: logits_loss(model(batch[0]), batch[1])
    if kind == "smoothed":
        return (
            model,
            batches(inputs, labels),
            adamw,
            lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1),
        )
    if kind == "bert":
        ids = torch.randint(5, 50, (320, 8))
        named = [
            {"input_ids": part, "attention_mask": torch.ones_like(part), "labels": (part[:, 0] > 27).long()}
            for part in ids.split(8)
        ]
        model = bert(0)
        return model, named, torch.optim.AdamW(model.parameters(), 2e-3), lambda model, batch: model(**batch).loss
    return model, batches(inputs, labels), adamw, cross_entropy


HEALTHY = [
    "plain",
    "sgd",
    "dropout",
    "norm",
    "small_batches",
    "frozen_body",
    "regression",
    "binary",
    "smoothed",
    "bert",
]


def run_example(parts: Parts, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the test function of the page with a project that builds these parts."""
    module = types.ModuleType("my_project.training")
    module.build = lambda: parts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_project", types.ModuleType("my_project"))
    monkeypatch.setitem(sys.modules, "my_project.training", module)
    names: dict[str, Any] = {}
    exec(compile(EXAMPLE, "tests/test_training.py", "exec"), names)
    names["test_training_is_healthy"](TrainingCheck(folder))


@pytest.mark.parametrize("fault", FAULTS)
def test_training_example_fails_on_fault(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        run_example(faulty(fault), tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", HEALTHY)
def test_training_example_passes_on_healthy(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    run_example(healthy(kind), tmp_path, monkeypatch)


@pytest.mark.slow
def test_training_example_runs_in_own_project(tmp_path: Path) -> None:
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "__init__.py").touch()
    (tmp_path / "my_project" / "training.py").write_text(
        "from tests.docs.test_training_page import faulty\n\n\ndef build():\n    return faulty('softmax')\n"
    )
    (tmp_path / "test_training.py").write_text(EXAMPLE)
    (tmp_path / "conftest.py").write_text("import sys\nsys.path.insert(0, '.')\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=limit(120),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"E +AssertionError: .*warning TBX-WIRE-012 double_softmax since step 1: ", done.stdout)
    assert re.search(r"^E +try: ", done.stdout, re.MULTILINE)


def plugin() -> list[str]:
    """What makes pytest load the plug-in where the package is not installed with its entry points."""
    from importlib.metadata import entry_points

    known = {point.value for point in entry_points(group="pytest11")}
    return [] if "tbx_callbacks.pytest_plugin" in known else ["-p", "tbx_callbacks.pytest_plugin"]
