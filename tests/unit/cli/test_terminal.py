"""Tests that no text steers the terminal, in whatever way it is printed."""

from __future__ import annotations

import io
import json
import logging
import os
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
from tests.helpers.commands import COMMAND, run, run_process
from tests.helpers.limits import limit
from tests.helpers.report_runs import trained
from tests.helpers.variations import variations

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


@pytest.mark.slow
def test_commands_of_set_print_clean_lines(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text('metrics:\n  - weight_norm: {include: "a\\e\\u202eb", by: layer}\n', encoding="utf-8")
    done = subprocess.run([*COMMAND, "check", str(path)], capture_output=True, text=True, timeout=limit(120))
    assert done.returncode == 0
    assert "a??b" in done.stdout


IMPORTED = {
    "warning": ("import warnings; warnings.warn({!r})", "warning: UserWarning: a?[31mb"),
    "own warning": (
        "import warnings\nclass Odd(Warning): ...\nwarnings.warn(Odd({!r}))",
        "warning: Odd: a?[31mb",
    ),
    "thread": (
        "import threading\ndef run(): raise ValueError({!r})\nt = threading.Thread(target=run); t.start(); t.join()",
        "warning: a thread failed: ValueError('a\\x1b[31mb",
    ),
    "mute thread": (
        "import threading\nclass Mute(Exception):\n  def __repr__(self): raise SystemExit({!r})\n"
        "def run(): raise Mute\nt = threading.Thread(target=run); t.start(); t.join()",
        "warning: a thread failed: Mute without a text",
    ),
    "removal": (
        "class A:\n  def __del__(self): raise ValueError({!r})\nA()",
        "warning: the removal of an object failed: ValueError('a\\x1b[31mb",
    ),
    "thread name": (
        "import threading\ndef run(): 1 / 0\nt = threading.Thread(target=run, name={!r}); t.start(); t.join()",
        "warning: a thread failed: ZeroDivisionError('division by zero')",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", variations(IMPORTED, "mute thread"))
def test_check_imported_code_prints_clean_lines(tmp_path: Path, way: str) -> None:
    code, printed = IMPORTED[way]
    hostile = HOSTILE.replace("\ud800", "")
    (tmp_path / "own.py").write_text(f"{code.format(hostile)}\ndef ring(finding): ...\n")
    (tmp_path / "own.yaml").write_text("metrics: [loss]\nrules: {divergence: {call: own.ring}}\n")
    done = run_process("check", "own.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith(printed)
    assert done.stderr.count("\n") == 1
    assert not [char for char in STEERING if char in done.stderr]


def to_full_disk(folder: Path) -> int:
    """A file that is as large as `ulimit -f 2048` allows, in blocks of 512 or of 1,024 bytes."""
    (folder / "full").write_bytes(bytes(2**21))
    return os.open(folder / "full", os.O_WRONLY | os.O_APPEND)


def to_no_reader(folder: Path) -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


OUTPUTS = {
    "full": (to_full_disk, 'ulimit -f 2048; exec "$@"', "File too large"),
    "no reader": (to_no_reader, 'exec "$@"', ""),
    "closed": (to_full_disk, 'exec "$@" >&-', "it is closed"),
}
PRINTING = {
    "sets": ["sets"],
    "metrics": ["metrics"],
    "schema": ["schema"],
    "check": ["check", "minimal"],
    "doctor": ["doctor", "run"],
    "json": ["doctor", "run", "--json"],
    "report": ["report", "run"],
    "recipe": ["recipe"],
    "help": ["--help"],
    "help of a command": ["doctor", "--help"],
}


def run_into(output: str, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """Runs a command with a standard output that cannot be written."""
    make, shell, _ = OUTPUTS[output]
    command, descriptor = ["sh", "-c", shell, "sh", *COMMAND, *arguments], make(cwd)
    try:
        return subprocess.run(command, stdout=descriptor, stderr=subprocess.PIPE, timeout=limit(120), cwd=cwd)
    finally:
        os.close(descriptor)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "output"),
    variations(
        [
            *((command, "full") for command in PRINTING if command != "report"),  # whose page finds no room either
            ("json", "closed"),
            ("help", "closed"),
        ],
        ("check", "full"),
        ("doctor", "full"),
        ("json", "closed"),
    ),
)
def test_command_unwritable_stdout_one_line(tmp_path: Path, command: str, output: str) -> None:
    trained(tmp_path / "run", steps=3)
    done = run_into(output, PRINTING[command], tmp_path)
    assert done.returncode == 2
    assert done.stderr.decode() == f"error: the standard output must be writable: {OUTPUTS[output][2]}\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", variations(PRINTING, "check", "json", "help"))
def test_command_without_reader_ends_silently(tmp_path: Path, command: str) -> None:
    trained(tmp_path / "run", steps=3)
    done = run_into("no reader", PRINTING[command], tmp_path)
    assert done.stderr == b""
    assert done.returncode == 141  # as `sh -c 'set -o pipefail; yes | head -1'`


@pytest.mark.thorough
def test_doctor_into_head_is_no_error(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=3)
    script = 'set -o pipefail; "$@" | head -n 1'
    for arguments in (["doctor", "run"], ["doctor", "run", "--json"], ["schema"], ["report", "run", "-o", "-"]):
        done = subprocess.run(
            ["bash", "-c", script, "bash", *COMMAND, *arguments], capture_output=True, timeout=limit(120), cwd=tmp_path
        )
        assert done.stderr == b"" or arguments[0] == "report"
        assert b"error" not in done.stderr
        assert done.returncode in (0, 141)  # short output may all be written before head ends
        assert done.stdout.count(b"\n") == 1


@pytest.mark.parametrize("output", ["full", "closed"])
def test_command_error_with_unwritable_stdout(tmp_path: Path, output: str) -> None:
    done = run_into(output, ["doctor", "nothing"], tmp_path)
    assert done.returncode == 2
    assert b"LOGDIR must be a folder" in done.stderr
    assert b"Traceback" not in done.stderr


def test_command_unwritable_stderr_keeps_code(tmp_path: Path) -> None:
    for make, shell, _ in (OUTPUTS["full"], OUTPUTS["no reader"]):
        command, descriptor = ["sh", "-c", shell, "sh", *COMMAND, "doctor", "nothing"], make(tmp_path)
        done = subprocess.run(command, stderr=descriptor, timeout=limit(60), cwd=tmp_path, stdout=subprocess.PIPE)
        os.close(descriptor)
        assert (done.returncode, done.stdout) == (2, b"")


ENDS = {
    "no stdout": ("import sys; sys.stdout = None", 2, "error: the standard output must be writable: code that was"),
    "no path": ("import sys, os; os.chdir('/'); sys.path.clear(); sys.stdout = None", 2, "error: the standard output"),
    "closed": ("import os; os.close(1)", 2, "error: the standard output must be writable: Bad file descriptor"),
    "closed stream": (
        "import sys; sys.stdout.close()",
        2,
        "error: the standard output must be writable: I/O operation",
    ),
    "interrupt": ("raise KeyboardInterrupt", 130, "error: interrupted"),
    "real interrupt": (
        "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        "os.kill(os.getpid(), signal.SIGINT)",
        130,
        "error: interrupted",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", variations(ENDS, "no stdout"))
def test_check_imported_code_ends_in_line(tmp_path: Path, way: str) -> None:
    code, exit_code, printed = ENDS[way]
    (tmp_path / "own.py").write_text(f"{code}\ndef ring(finding): ...\n")
    (tmp_path / "own.yaml").write_text("metrics: [loss]\nrules: {divergence: {call: own.ring}}\n")
    done = run_process("check", "own.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr.startswith(printed)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("every", ["inf", "-inf", "nan", "1e300", "0", "0.5", "-1", "86401"])
@pytest.mark.parametrize("watch", [["--watch"], []], ids=["watch", "once"])
def test_report_wrong_interval_one_line(tmp_path: Path, every: str, watch: list[str]) -> None:
    trained(tmp_path / "run", steps=3)
    done = run("report", "run", *watch, "--every", every, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --every must be a number of seconds from 1 to 86400, got")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "arguments",
    [["--png", ""], ["-o", ""], ["-o", "new/"], ["-o", "run/"], ["-o", "new/."], ["-o", "page.html/"]],
    ids=" ".join,
)
def test_report_no_name_of_file_one_line(tmp_path: Path, arguments: list[str]) -> None:
    trained(tmp_path / "run", steps=3)
    done = run("report", "run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.thorough
def test_log_message_of_several_lines_printed_as_one(tmp_path: Path) -> None:
    code = "import logging; logging.getLogger('tbx_callbacks.x').warning('one\\nerror: two\\x1b[31m')"
    (tmp_path / "noisy.py").write_text(f"{code}\n\n\nclass Metric: pass\n")
    (tmp_path / "set.yaml").write_text("metrics: [noisy.Metric]\n")
    done = run_process("check", "set.yaml", cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("warning: ")] == ["warning: one?error: two?[31m"]
    assert sum(line.startswith("error:") for line in lines) == 1  # about the class


@pytest.mark.slow
@pytest.mark.parametrize("columns", variations([None, "40"], "40"))
def test_tables_piped_never_cut(columns: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {} if columns is None else {"COLUMNS": columns}
    done = subprocess.run([*COMMAND, "check", "full"], capture_output=True, text=True, env=environment, check=True)
    assert "\u2026" not in done.stdout
    assert columns is not None or "lr/<Optimizer>/<group>" in done.stdout
