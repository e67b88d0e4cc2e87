"""Tests the wheel: its files, and its use outside of the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

from tbx_callbacks import __version__
from tbx_callbacks.autolog.lightning import GROUPS
from tests.helpers.limits import limit
from tests.helpers.processes import python
from tests.helpers.runs import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist, and of the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit(120))
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_version_is_written_once(built: Path) -> None:
    files = {path.name for path in built.iterdir()}
    assert files == {f"tbx_callbacks-{__version__}.tar.gz", f"tbx_callbacks-{__version__}-py3-none-any.whl"}
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_distributions_pass_twine(built: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit(120))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_readme_examples_pass_strict_types(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    given = (
        "from typing import Any\nimport torch\nimport lightning as L\n"
        "from transformers import Trainer, TrainingArguments\n"
        "model: Any\ntrain_dataset: Any\nmodule: Any\ntrain_loader: Any\noptimizer: Any\n"
        "batches: Any\ncriterion: Any\n"
    )
    for number, block in enumerate(blocks):
        (tmp_path / f"example{number}.py").write_text(("" if "import torch" in block else given) + block)
    # The examples are checked against the package. Reading torch and the trainers as well takes minutes.
    others = "torch.*,torch,transformers.*,transformers,lightning.*,lightning,tensorboardX.*,tensorboardX,numpy.*,numpy"
    settings = "strict = True\nfollow_imports = silent\nignore_missing_imports = True"
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n{settings}\n[mypy-{others}]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini"]
    done = subprocess.run(
        [*command, *(f"example{number}.py" for number in range(len(blocks)))],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(tmp_path / "site"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=limit(300),
    )
    assert done.returncode == 0, done.stdout


def test_wheel_holds_sets_recipes_types_and_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"tbx_callbacks/configs/{name}.yaml" for name in ("minimal", "default", "full")}
    expected |= {f"tbx_callbacks/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.py")}
    assert expected | {"tbx_callbacks/py.typed", "tbx_callbacks/cli/SKILL.md"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (points,) = [name for name in names if name.endswith("/entry_points.txt")]
    assert all(f"[{group}]" in zipfile.ZipFile(wheel).read(points).decode() for group in (*GROUPS.values(), "pytest11"))
    assert not any(name.startswith("tests/") or "__pycache__" in name for name in names)


@pytest.mark.slow
def test_wheel_installed_alone_works(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=limit(120))
    environment = {**os.environ, "PYTHONPATH": str(target), "COLUMNS": "200"}

    def run(code: str) -> str:
        done = python("-c", code, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(target) in run("import tbx_callbacks; print(tbx_callbacks.__file__)")
    assert "8" in run("from tbx_callbacks import load_config; print(len(load_config('minimal').items))")
    cli = "import sys; sys.argv = ['tbx-callbacks', {}]; from tbx_callbacks.cli import main; main()"
    assert "full" in run(cli.format("'sets'"))
    assert "--vocab" in run(cli.format("'recipe', 'bert-sentiment', '--help'"))


def test_types_checked_for_oldest_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["requires-python"] == f">={project['tool']['mypy']['python_version']}"
