"""Tests that no text steers the terminal, in whatever way it is printed."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.markup import escape
from rich.padding import Padding
from rich.progress import Progress
from rich.table import Table

from tbx_callbacks.cli import terminal
from tests.helpers.commands import COMMAND, run
from tests.helpers.limits import limit

HOSTILE = "a\x1b[31mb\x1b]0;t\x07c\rd\x08e\x9bf\u202eg\u2066h\x7fi\u2028j\ud800k\0[red]l[/red]"
STEERING = ("\x1b", "\x07", "\r", "\x08", "\x9b", "\u202e", "\u2066", "\x7f", "\u2028", "\ud800", "\0")


def table(text: str) -> Table:
    made = Table(text)
    made.add_row(text)
    return made


def with_progress(console: terminal.Terminal) -> None:
    with Progress(console=console) as bars:
        bars.add_task(escape(HOSTILE), total=None)
        bars.refresh()


PRINTED: dict[str, Callable[[terminal.Terminal], object]] = {
    "text": lambda console: console.print(escape(HOSTILE)),
    "soft": lambda console: console.print(f"[bold]{escape(HOSTILE)}[/bold]", soft_wrap=True),
    "plain": lambda console: console.print(HOSTILE, markup=False),
    "table": lambda console: console.print(table(escape(HOSTILE))),
    "padding": lambda console: console.print(Padding(escape(HOSTILE), (0, 0, 0, 4))),
    "rule": lambda console: console.rule(escape(HOSTILE)),
    "progress": with_progress,
}


@pytest.mark.parametrize("way", PRINTED)
def test_terminal_prints_no_steering_character(way: str) -> None:
    console = terminal.Terminal(file=io.StringIO(), force_terminal=False, width=200)
    PRINTED[way](console)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert not [char for char in STEERING if char in written]
    assert "[31mb" in written


def test_terminal_keeps_own_colours() -> None:
    console = terminal.Terminal(file=io.StringIO(), force_terminal=True, width=200, color_system="standard")
    console.print(f"[red]error:[/red] {escape(HOSTILE)}", highlight=False)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert written.startswith("\x1b[31merror:\x1b[0m a?[31mb")
    assert written.count("\x1b") == 2


def test_print_json_escapes_steering_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({HOSTILE: HOSTILE, "pi": "π"})
    written = capsys.readouterr().out
    assert written.isascii()
    assert not [char for char in STEERING if char in written]
    assert json.loads(written)[HOSTILE] == HOSTILE


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", HOSTILE],
        ["check", f"{HOSTILE}.yaml"],
        ["doctor", HOSTILE],
        ["report", HOSTILE],
        ["report", ".", "-o", f"{HOSTILE}/x"],
        ["view", HOSTILE],
        ["recipe", HOSTILE],
        ["doctor", ".", "--rules", HOSTILE],
        [HOSTILE],
        ["check", f"--{HOSTILE}"],
        ["check", "a", HOSTILE],
        ["report", ".", "--every", HOSTILE],
    ],
    ids=lambda arguments: str(arguments)[:30].encode("unicode_escape").decode(),
)
def test_command_error_shows_no_steering_character(tmp_path: Path, arguments: list[str]) -> None:
    arguments = [part.replace("\0", "").replace("\ud800", "\udcff") for part in arguments]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert not [char for char in STEERING if char in done.stdout + done.stderr]


def test_warnings_printed_on_clean_lines(tmp_path: Path) -> None:
    code = (
        "import logging; from tbx_callbacks.cli.terminal import print_warnings; print_warnings();"
        f"logging.getLogger('x').warning('left out: %s', {HOSTILE!r}); logging.getLogger('x').info('quiet')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=limit(60), check=True)
    assert done.stdout == b""
    assert done.stderr.decode().startswith("warning: left out: a?[31mb")
    assert not [char for char in STEERING if char.isascii() and char.encode() in done.stderr]


def test_print_warnings_leaves_existing_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    before = list(logging.getLogger().handlers)
    terminal.print_warnings()
    assert logging.getLogger().handlers == before


def test_commands_of_set_print_clean_lines(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text('metrics:\n  - weight_norm: {include: "a\\e\\u202eb", by: layer}\n', encoding="utf-8")
    done = subprocess.run([*COMMAND, "check", str(path)], capture_output=True, text=True, timeout=limit(120))
    assert done.returncode == 0
    assert "a??b" in done.stdout
