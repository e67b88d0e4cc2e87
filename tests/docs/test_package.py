"""Tests the wheel: its files, and its use outside of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

from tbx_callbacks.autolog.lightning import GROUPS
from tests.helpers.limits import limit
from tests.helpers.processes import python
from tests.helpers.runs import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit(120))
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_sets_recipes_types_and_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"tbx_callbacks/configs/{name}.yaml" for name in ("minimal", "default", "full")}
    expected |= {f"tbx_callbacks/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.py")}
    assert expected | {"tbx_callbacks/py.typed", "tbx_callbacks/cli/SKILL.md"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (points,) = [name for name in names if name.endswith("/entry_points.txt")]
    assert all(f"[{group}]" in zipfile.ZipFile(wheel).read(points).decode() for group in (*GROUPS.values(), "pytest11"))
    assert not any(name.startswith("tests/") or "__pycache__" in name for name in names)


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
