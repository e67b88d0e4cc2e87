"""Tests the command `preflight` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.commands import run

TRAINING = """
import torch
from torch import nn
from torch.nn import functional as F


def healthy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
    rows = torch.randn(64, 3)
    batches = list(zip(rows.split(8), (rows[:, 0] > 0).long().split(8)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return dict(model=model, batches=batches, optimizers=optimizer, loss=loss)


def loss(model, batch):
    logits = model(batch[0])
    return F.cross_entropy(logits, batch[1]), logits


def softmax():
    given = healthy()
    given["model"].append(nn.Softmax(-1))
    return given


def ignored():
    given = healthy()
    given["batches"] = [(rows, torch.full_like(labels, -100)) for rows, labels in given["batches"]]
    return given


def number():
    return 3


def misspelt():
    return {**healthy(), "loader": []}


def broken():
    return {**healthy(), "model": 3}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training")
    (path / "my_training.py").write_text(TRAINING)
    return path


@pytest.mark.parametrize(
    ("function", "options", "code", "words"),
    [
        ("healthy", [], 0, "Nothing found"),
        ("softmax", [], 0, "TBX-WIRE-012"),
        ("softmax", ["--fail-on", "warning"], 1, "double_softmax"),
        ("ignored", [], 1, "labels_ignored"),
    ],
)
def test_preflight_prints_findings_and_fails(
    folder: Path, function: str, options: list[str], code: int, words: str
) -> None:
    done = run("preflight", f"my_training.{function}", *options, cwd=folder)
    assert done.returncode == code, done.stderr
    assert words in done.stdout


def test_preflight_json_has_findings(folder: Path) -> None:
    done = run("preflight", "my_training.softmax", "--json", cwd=folder)
    (one,) = json.loads(done.stdout)["runs"]
    assert [finding["code"] for finding in one["findings"]] == ["TBX-WIRE-012"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("my_training.number", "must return the arguments of preflight by name, got 3; return a dict"),
        ("my_training.nothing", "SOURCE must name a function that can be imported"),
        ("healthy", "SOURCE must name a function, as package.function, got 'healthy'"),
        ("my_training.misspelt", "must return arguments of preflight, got 'loader'; did you mean 'model'? known"),
        ("my_training.broken", "model must be a torch.nn.Module, got int"),
    ],
)
def test_preflight_bad_source_clear_error(folder: Path, source: str, message: str) -> None:
    done = run("preflight", source, cwd=folder)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
