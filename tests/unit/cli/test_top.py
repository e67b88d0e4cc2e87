"""Tests the command `top`: one frame in a pipe, and the live view in a real terminal, tmux."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import COMMAND, run, run_process
from tests.helpers.limits import limit
from tests.helpers.report_runs import LAYERS, trained
from tests.helpers.watched import add_lines

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


def test_top_once_in_pipe_is_plain(tmp_path: Path) -> None:
    trained(tmp_path / "exp1", steps=60)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "events.out.tfevents.1.x").write_bytes(b"no event file")
    done = run_process("top", ".", "--once", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tbx-callbacks top  .  2 runs")
    assert "\x1b" not in done.stdout
    assert any("events.out.tfevents.1.x" in line for line in lines)
    assert any(line.startswith("grad_norm  7 layers") for line in lines)
    assert max(map(len, lines)) <= 200


def test_top_bad_arguments_one_line(tmp_path: Path) -> None:
    add_lines(tmp_path / "metrics.jsonl", range(1, 4))
    for arguments, words in (
        (["gone", "--once"], "does not exist"),
        ([".", "--every", "0"], "--every must be a number of seconds from 0.1 to 86400, got 0"),
        ([".", "--every", "nan"], "--every must be"),
        (["."], "must be a terminal that can move its cursor; print one frame with --once"),
        ([".", "--rules", "gone.yaml"], "gone.yaml"),
    ):
        done = run("top", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), arguments
        assert words in done.stderr


def test_top_starts_without_torch(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=8)
    top = "from tbx_callbacks.cli import app; app(['top', '.', '--once'], standalone_mode=False)"
    code = f"import sys; {top}; print({{'torch', 'plotly', 'matplotlib'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


class Tmux:
    """A terminal of 80 x 24 characters in a server of its own, in which a script runs."""

    def __init__(self, name: str, folder: Path, script: str) -> None:
        self._tmux = ["tmux", "-u", "-L", name, "-f", os.devnull]
        self._environment = {**os.environ, "LC_ALL": "C.UTF-8", "TMUX": ""}
        for variable in ("COLUMNS", "LINES", "NO_COLOR"):
            self._environment.pop(variable, None)
        self("new-session", "-d", "-x", "80", "-y", "24", "-c", str(folder), f"sh -c {shlex.quote(script)}")

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments], capture_output=True, text=True, timeout=limit(30), env=self._environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def screen(self) -> list[str]:
        return self("capture-pane", "-p").splitlines()

    def wait(self, *texts: str, matches: Callable[[list[str]], bool] = lambda _: True) -> list[str]:
        """The screen, as soon as it holds each text and matches."""
        deadline = time.monotonic() + limit(20)
        while time.monotonic() < deadline:
            lines = self.screen()
            if all(text in "\n".join(lines) for text in texts) and matches(lines):
                return lines
            time.sleep(0.1)
        pytest.fail(f"{texts} did not appear:\n" + "\n".join(self.screen()))


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Tmux]:
    """A terminal in which `top runs` runs three times, with a line after each of them."""
    top = " ".join(map(shlex.quote, [*COMMAND, "top", "runs", "--every", "0.2"]))
    script = (
        f"trap : INT; stty -g > before; for number in 1 2 3; do sh -c {shlex.quote(f'echo $$ > pid; exec {top}')};"
        " echo ended $number with $?; stty -g > after$number; read line; done; cat"
    )
    server = Tmux(f"tbx-{os.getpid()}", tmp_path, script)
    try:
        yield server
    finally:
        server("kill-server")


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[None]:
    """A run that gets a step every tenth of a second, once the test has made the folder `runs`."""
    stopped, file = threading.Event(), tmp_path / "runs" / "grows" / "metrics.jsonl"

    def grow() -> None:
        step = 0
        while not stopped.wait(0.1):
            if (tmp_path / "runs").is_dir():
                step += 1
                add_lines(file, range(step, step + 1), train__loss=1 / step, time__left_s=90.0)

    thread = threading.Thread(target=grow)
    thread.start()
    yield
    stopped.set()
    thread.join()


@pytest.mark.slow
@needs_tmux
def test_top_in_tmux_follows_and_restores(tmp_path: Path, terminal: Tmux, growing: None) -> None:
    terminal.wait("Waiting for a run:", "does not exist")
    (tmp_path / "runs").mkdir()
    terminal.wait("> grows")  # the run that appears first is chosen
    trained(tmp_path / "runs" / "exp1", steps=40)
    terminal.wait("> grows", "exp1", "2 runs", "1 min 30 s")
    first = terminal.wait("── grows ──", "step ")
    assert len(first) == 24
    assert first[-1].startswith("q quit")

    terminal("send-keys", "Up")
    lines = terminal.wait("> exp1", "── exp1 ──", "grad_norm  7 layers")
    assert all(any(line.startswith(layer.removeprefix("bert.encoder.")[:5]) for line in lines) for layer in LAYERS[1:5])
    terminal("send-keys", "f")
    terminal.wait("weight_norm  7 layers")
    terminal("send-keys", "h")
    terminal.wait("this help; any key closes it")
    terminal("send-keys", "x")
    terminal.wait("── exp1 ──")

    terminal("resize-window", "-x", "120", "-y", "40")
    lines = terminal.wait("samples/s last point", matches=lambda lines: len(lines) == 40 and "q quit" in lines[-1])
    assert any(len(line) > 100 for line in lines)
    shutil.rmtree(tmp_path / "runs" / "exp1")
    terminal.wait("1 run ", "── grows ──")

    terminal("send-keys", "q")
    _assert_ended(terminal, tmp_path, 1)
    terminal("send-keys", "Enter")
    terminal.wait("── grows ──")
    terminal("send-keys", "C-c")
    _assert_ended(terminal, tmp_path, 2)
    terminal("send-keys", "Enter")
    terminal.wait("── grows ──")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    _assert_ended(terminal, tmp_path, 3)


def _assert_ended(terminal: Tmux, folder: Path, number: int) -> None:
    """The command ended well, the screen is that of the shell, and the terminal has its modes and its cursor."""
    lines = terminal.wait(f"ended {number} with 0", matches=lambda _: (folder / f"after{number}").is_file())
    assert "q quit" not in "\n".join(lines)
    assert terminal("display-message", "-p", "#{alternate_on} #{cursor_flag}") == "0 1\n"
    deadline = time.monotonic() + limit(10)
    while not (after := (folder / f"after{number}").read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert after == (folder / "before").read_text()
