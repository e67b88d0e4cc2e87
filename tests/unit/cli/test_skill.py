"""Tests what coding agents read: the skill, llms.txt, and help that fits a screen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tbx_callbacks import __version__, cli
from tests.helpers.commands import run
from tests.helpers.runs import ROOT

COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]  # type: ignore[union-attr]


def test_skill_names_existing_commands_and_options() -> None:
    text = run("skill").stdout
    assert text.startswith("---\nname: tbx-callbacks\ndescription: ")
    named = re.findall(r"^tbx-callbacks (\w+)", text, re.MULTILINE)
    assert {"show", "around", "doctor", "compare"} <= set(named) <= set(COMMANDS)
    for line in re.findall(r"^tbx-callbacks (.+?)(?: +#|$)", text, re.MULTILINE):
        command, *words = line.split()
        shown = run(command, "--help").stdout
        assert all(word in shown for word in words if word.startswith("-")), line


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "recipe"])  # whose help is the recipe's
def test_help_of_command_fits_screen(command: str) -> None:
    text = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 80


def test_version_printed() -> None:
    assert run("--version").stdout == f"tbx-callbacks {__version__}\n"


def test_llms_txt_links_exist() -> None:
    text = (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 5
    assert all((ROOT / "docs" / link).exists() for link in links)


def test_show_starts_without_torch(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    show = "from tbx_callbacks.cli import app; app(['show', '.'], standalone_mode=False)"
    code = f"import sys; {show}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "False"
