"""Tests the command `watch` on growing logs of every format, with a real receiver."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tbx_callbacks._notify.address import Address
from tbx_callbacks._notify.alerts import Target
from tbx_callbacks._notify.message import Message
from tbx_callbacks.cli import commands
from tbx_callbacks.cli.outputs import output_schema
from tbx_callbacks.cli.watch import targets_of, watch, watch_and_send
from tbx_callbacks.metrics.host_values import HParams, HParamsEnd
from tbx_callbacks.runs.reader import UnreadableError
from tbx_callbacks.writers.json_lines import JsonLinesWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.commands import run
from tests.helpers.web_server import SECRET, receiving


def event_file(folder: Path, step: int, values: dict[str, Any]) -> None:
    writer = TensorBoardWriter(folder)
    writer.write(step, values)
    writer.close()


def json_lines(folder: Path, step: int, values: dict[str, Any]) -> None:
    JsonLinesWriter(str(folder)).write(step, values)


def trainer_state(folder: Path, step: int, values: dict[str, Any]) -> None:
    path = folder / "trainer_state.json"
    state = json.loads(path.read_text()) if path.exists() else {"log_history": [], "max_steps": 3}
    state["log_history"] += [{"step": step, "loss": value} for value in values.values() if isinstance(value, float)]
    path.write_text(json.dumps({**state, "global_step": step}))


def csv(folder: Path, step: int, values: dict[str, Any]) -> None:
    with open(folder / "metrics.csv", "a") as file:
        file.write("step,train/loss\n" * (step == 1))
        file.writelines(f"{step},{value}\n" for value in values.values() if isinstance(value, float))


NUMBER = {"train/loss": 1.0}
FORMATS: dict[str, Callable[[Path, int, dict[str, Any]], None]] = {
    "event files": event_file,
    "JSON lines": json_lines,
    "trainer state": trainer_state,
    "CSV": csv,
}


class Scenes:
    """Changes the folder between two looks; its clock advances by 100 s a look."""

    def __init__(self, *scenes: Callable[[], object]) -> None:
        self.scenes, self.now = list(scenes), 1_764_400_000.0

    def wait(self) -> bool:
        if not self.scenes:
            return True
        self.now += 100.0
        self.scenes.pop(0)()
        return False

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize("kind", FORMATS)
def test_watch_tells_end_and_finding_of_format(tmp_path: Path, kind: str) -> None:
    add = FORMATS[kind]
    add(tmp_path, 1, {**NUMBER, "_hparams_/session_start_info": HParams({"lr": 0.1})})
    end = {"train/loss": float("nan"), "_hparams_/session_end_info": HParamsEnd(succeeded=True)}
    scenes = Scenes(lambda: add(tmp_path, 2, NUMBER), lambda: add(tmp_path, 3, end))
    found = [event for event in watch(str(tmp_path), scenes.wait, clock=scenes.clock) if isinstance(event, Message)]
    assert {event.event for event in found} == ({"error"} if kind == "CSV" else {"error", "end"})
    assert {(event.run, event.step) for event in found if event.event == "error"} == {(read_as(tmp_path, kind), 3)}


def read_as(folder: Path, kind: str) -> str:
    names = {"JSON lines": "metrics.jsonl", "CSV": "metrics.csv"}
    return str(folder / names[kind]) if kind in names else str(folder)


@pytest.mark.parametrize("kind", ["event files", "JSON lines"])
def test_watch_tells_crash_of_failed_run(tmp_path: Path, kind: str) -> None:
    add = FORMATS[kind]
    add(tmp_path, 1, {**NUMBER, "_hparams_/session_start_info": HParams({"lr": 0.1})})
    scenes = Scenes(lambda: add(tmp_path, 2, {"_hparams_/session_end_info": HParamsEnd(succeeded=False)}), lambda: None)
    found = [event for event in watch(str(tmp_path), scenes.wait, clock=scenes.clock) if isinstance(event, Message)]
    assert [event.event for event in found] == ["crash"]


def test_watch_waits_for_first_run_and_stalls(tmp_path: Path) -> None:
    scenes = Scenes(
        lambda: None, *(lambda step=step: csv(tmp_path, step, NUMBER) for step in (1, 2, 3)), *[lambda: None] * 5
    )
    first, *found = watch(str(tmp_path), scenes.wait, clock=scenes.clock)
    assert isinstance(first, UnreadableError)
    assert [(event.event, event.text) for event in found if isinstance(event, Message)] == [
        ("stall", "no new point has been logged for 7 min")
    ]


def test_watch_sends_and_prints_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = Message("crash", "runs/[a]", 3, "it failed")
    with receiving() as receiver:
        watch_and_send(iter([UnreadableError("nothing yet"), message]), targets(receiver.url), prints_json=False)
        watch_and_send(iter([UnreadableError("nothing yet"), message]), targets(receiver.url), prints_json=True)
    assert receiver.bodies == [message.as_json()] * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nothing yet; waiting for one"
    assert lines[1].endswith(" crash: runs/[a], step 3: it failed")
    (line,) = lines[2:]
    jsonschema.validate(json.loads(line), output_schema("watch"))
    assert json.loads(line) == {"command": "watch", "schema_version": 1, **message.as_json()}


def targets(url: str) -> list[Target]:
    return [Target(Address(url))]


class Stopped:
    """Stands in for the event of Ctrl-C: a step is written at the first look, the second one is the last."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.looks, self.seconds = folder, 0, list[float]()

    def wait(self, seconds: float) -> bool:
        self.looks += 1
        self.seconds.append(seconds)
        if self.looks == 1:
            json_lines(self.folder, 2, {"train/loss": float("nan")})
        return self.looks == 2


def test_watch_command_sends_from_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    json_lines(tmp_path, 1, NUMBER)
    stopped = Stopped(tmp_path)
    monkeypatch.setattr(commands, "_stop_event", lambda: stopped)
    with receiving() as receiver:
        monkeypatch.setenv("TBX_TEST_HOOK", receiver.url)
        options = ["--notify", "${TBX_TEST_HOOK}", "--on", "error,crash", "--every", "7", "--json"]
        done = run("watch", str(tmp_path), *options)
    assert done.returncode == 0
    assert stopped.seconds == [7.0, 7.0]
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["code"] == "TBX-NUM-001"
    assert receiver.events == ["error"]
    assert SECRET not in done.stdout + done.stderr


WRONG = {
    "--notify ${TBX_TEST_GONE}": "--notify number 1 must name variables of the environment, got TBX_TEST_GONE, which",
    f"--notify {SECRET}": "--notify number 1 must be a URL such as",
    "--notify https://h --on crsh": "--on must name known events, got 'crsh'; did you mean 'crash'?",
    "--every 0": "--every must be a number of seconds from 1 to 86400, got 0",
}


@pytest.mark.parametrize("options", WRONG)
def test_watch_wrong_option_named_without_address(tmp_path: Path, options: str) -> None:
    done = run("watch", str(tmp_path), *options.split())
    assert done.returncode == 2
    assert f"error: {WRONG[options]}" in done.stderr
    assert SECRET not in done.stderr


def test_targets_without_apprise_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ValueError, match="--notify number 2 must be an address that can be used, but it needs apprise"):
        targets_of(["https://example.com", f"slack://{SECRET}"], [])


def test_watch_starts_without_torch(tmp_path: Path) -> None:
    json_lines(tmp_path, 1, NUMBER)
    code = (
        "import sys; from tbx_callbacks.cli import watch as w;"
        " list(w.watch('.', lambda: True)); w.watch_and_send(iter([]), [], prints_json=True);"
        " print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "False"
