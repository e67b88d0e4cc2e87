"""Runs the package of docs/extending.md from a folder outside the project: check, train, list, diagnose, test."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from tests.helpers.limits import limit
from tests.helpers.runs import ROOT, Run

PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^```(?:python|yaml|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLI = "import sys; from tbx_callbacks.cli import app; sys.argv[0] = 'tbx-callbacks'; app()"
TRAIN = """
import logging
import sys

import torch

from tbx_callbacks import TbxLoop

logging.basicConfig()
model = torch.nn.Linear(4, 3)
for parameter in model.parameters():
    torch.nn.init.constant_(parameter, 1e-4)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
with TbxLoop(model, optimizer, sys.argv[1], log_dir="run", log_every=5) as loop:
    for _ in range(20):
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        loop.end_step()
        if loop.should_stop:
            break
"""

ADAPTER = """
import torch
from my_pkg.trainer import MyTrainerLogger

model = torch.nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
logger = MyTrainerLogger(log_dir="adapted")
logger.training_begins(model, optimizer)
for step in range(1, 21):
    inputs = {"x": torch.randn(8, 4)}
    loss = model(inputs["x"]).square().sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    assert not logger.batch_ends(inputs, loss)
    if step == 10:
        logger.evaluation_ends(accuracy=0.5)
logger.training_ends()
"""


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def folder(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, installed as pip would: with a dist-info folder beside it."""
    made = tmp_path_factory.mktemp("outside")
    for name, text in {**files, "my_pkg/__init__.py": "", "train.py": TRAIN}.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text, encoding="utf-8")
    metadata = made / "my_pkg-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my_pkg\nVersion: 1.0\n")
    groups = tomllib.loads(files["pyproject.toml"])["project"]["entry-points"]
    lines = [
        line for group, points in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return made


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))), "COLUMNS": "200"}
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=limit(120),
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]
    return ended.stdout + ended.stderr


def test_extending_page_files_complete(files: dict[str, str]) -> None:
    assert {*files} == {
        *(f"my_pkg/{name}.py" for name in ("metrics", "rules", "writers", "cadences", "trainer")),
        "my_set.yaml", "pyproject.toml", "tests/test_my_pkg.py",
    }  # fmt: skip


def test_extending_page_public_names_only(files: dict[str, str]) -> None:
    for name, text in files.items():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tbx_callbacks"):
                    names = [*str(node.module).split("."), *(entry.name for entry in node.names)]
                    assert not [part for part in names if part.startswith("_")], name


@pytest.mark.slow
def test_extending_set_checked_with_outside_names(folder: Path) -> None:
    table = run(folder, "-c", CLI, "check", "my_set.yaml")
    for word in ("my_pkg.metrics.SmallShare", "kurtosis/{group}", "my_pkg.rules.SmallWeights (stop)"):
        assert word in table


@pytest.mark.slow
def test_extending_set_trained_written_and_stopped(folder: Path) -> None:
    run(folder, "train.py", "my_set.yaml")
    written = Run(folder / "run")
    assert written.scalars["small_share/total"] == [(5, 1.0), (10, 1.0)]  # the rule stops after the next step
    assert written.steps("kurtosis/weight") == [2, 3, 5, 8]
    lines = (folder / "run" / "numbers.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in lines} >= {"2", "3", "5", "8", "10"}
    assert any("alerts/my_pkg.rules.SmallWeights" in tag or "alerts/small_weights" in tag for tag in written.texts)


@pytest.mark.slow
def test_extending_trainer_logs_and_stops(folder: Path) -> None:
    run(folder, "-c", ADAPTER)
    written = Run(folder / "adapted")
    assert written.scalars["eval/accuracy"] == [(10, 0.5)]
    assert [step for step, _ in written.scalars["train/loss"]] == [10, 20]


@pytest.mark.slow
def test_extending_entry_points_listed_and_diagnosed(folder: Path) -> None:
    assert "small_share" in run(folder, "-c", CLI, "metrics")
    schema = json.loads(run(folder, "-c", CLI, "schema"))
    assert "small_share" in schema["$defs"]
    run(folder, "train.py", "my_set.yaml")
    ended = subprocess.run(
        [sys.executable, "-c", CLI, "doctor", "run"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}, timeout=limit(120), check=False,
    )  # fmt: skip
    assert "small_weights" in ended.stdout


@pytest.mark.slow
def test_extending_page_own_tests_pass(folder: Path) -> None:
    assert "4 passed" in run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
