"""Tests whole frames: their size, colours, control characters and terminals without Unicode."""

from __future__ import annotations

import dataclasses
import io
import math
import re

import pytest

from tbx_callbacks.cli.terminal import Terminal
from tbx_callbacks.monitor.frame import Frame
from tbx_callbacks.monitor.view import View
from tbx_callbacks.monitor.watched_runs import Snapshot, WatchedRun
from tests.helpers.watched import START, series, training, watched, with_status

SIZES = [(80, 24), (120, 40), (200, 60)]
HOSTILE = "a\x1b[31m\r\n\u202eb[red]\u4e16\u754c"
ODD = (
    training("usual"),
    training("deep", layers=200),
    WatchedRun("broken", "/broken", problem="it cannot be read: " + "reason " * 30),
    WatchedRun("histograms", "/histograms", histograms=3),
    watched("point", {"train/loss": series([1.0])}),
    watched("nan", {"train/loss": series([math.nan] * 3), "eval/loss": series([math.inf])}),
    watched("hostile", {f"{HOSTILE}/layer.{n}": series([1.0, 2.0]) for n in range(4)} | {"loss": series([1.0])}),
)
SNAPSHOTS = {
    "odd": Snapshot(ODD, START + 60),
    "many": Snapshot(tuple(training(f"run{n}", layers=0, points=5) for n in range(50)), START),
    "none": Snapshot((), START, problem=f"LOGDIR must hold logs of a run, but there are none in {'x' * 200}"),
    "first": Snapshot(reading="run1"),
}


def printed(frame: Frame, size: tuple[int, int], **options: object) -> str:
    file = io.StringIO()
    width, height = size
    console = Terminal(file=file, width=width, height=height, highlight=False, **options)  # type: ignore[arg-type]
    console.print(frame, height=height)
    return file.getvalue()


@pytest.mark.parametrize("size", [*SIZES, (60, 15), (20, 5), (10, 1)], ids=str)
@pytest.mark.parametrize("name", SNAPSHOTS)
def test_frame_fits_its_size(name: str, size: tuple[int, int]) -> None:
    snapshot = SNAPSHOTS[name]
    folders = [run.folder for run in snapshot.runs if run in ODD or run.name in ("run0", "run49")] or [None]
    for view in [*(View(folder) for folder in folders), View(is_help=True)]:
        lines = Frame(snapshot, view, "runs", "a warning").lines(*size, has_colours=True)
        assert len(lines) <= size[1]
        assert max(line.cell_len for line in lines) <= size[0]
        text = printed(Frame(snapshot, view, "runs", "a warning"), size)
        assert len(text.splitlines()) <= size[1]
        assert "\x1b" not in text


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_frame_fills_screen_of_keys(size: tuple[int, int]) -> None:
    for snapshot in SNAPSHOTS.values():
        lines = Frame(snapshot, View(), "runs").lines(*size, has_colours=False)
        assert len(lines) == size[1]
        assert lines[-1].plain.startswith("q quit")
    assert "q quit" not in printed(Frame(SNAPSHOTS["odd"], View(), "runs", has_keys=False), size)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_frame_shows_every_part(size: tuple[int, int]) -> None:
    text = printed(Frame(Snapshot((training(),), START), View(), "runs"), size)
    for part in ("none found", "train 0.1", "eval 0.15", "before 0.3", "after 0.3", "layers.5", "12.5", "1 min 30 s"):
        assert part in text, part


def test_frame_without_colours_keeps_levels() -> None:
    frame = Frame(Snapshot((training(),), START), View(), "runs")
    for options in ({"no_color": True, "force_terminal": True, "color_system": "256"}, {"color_system": None}):
        text = printed(frame, (80, 24), **options)
        assert re.search(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|38;|48;)", text) is None
        assert "░" in text
    coloured = printed(frame, (80, 24), force_terminal=True, color_system="256")
    assert "\x1b[48;5;" in coloured
    assert "░" not in coloured


def test_frame_hostile_text_cannot_steer_terminal() -> None:
    hostile = dataclasses.replace(ODD[-1], name="a?[31m")
    text = printed(Frame(Snapshot((hostile,), START, reading=""), View(), HOSTILE, "warned"), (80, 24))
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text) is None
    assert "a?[31m???b[red]" in text


def test_frame_on_ascii_terminal_is_ascii() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Terminal(file=file, width=80, height=24, highlight=False)
    console.print(Frame(SNAPSHOTS["odd"], View("/runs/usual"), "runs\u4e16"))
    file.flush()
    lines = file.buffer.getvalue().decode("ascii").splitlines()  # type: ignore[attr-defined]
    assert len(lines) <= 24
    assert any(re.search(r" layers  .* \.:\+#@ ", line) for line in lines)


def test_frame_waits_for_runs_with_reason() -> None:
    lines = [line.plain for line in Frame(SNAPSHOTS["none"], View(), "runs").lines(80, 24, has_colours=False)]
    assert "Waiting for a run:" in lines
    assert any("must hold logs" in line for line in lines)
    assert any("Reading" in line.plain for line in Frame(Snapshot(), View(), "runs").lines(80, 24, has_colours=False))


def test_frame_whole_shows_all_runs_and_layers() -> None:
    runs = (*(training(f"run{n}", layers=0, points=5) for n in range(30)), training("deep", layers=90))
    frame = Frame(Snapshot(runs, START), View("/runs/deep"), "runs", has_keys=False, is_whole=True)
    lines = printed(frame, (100, 24)).splitlines()
    for name in [*(run.name for run in runs), *(f"layers.{n}" for n in range(90))]:
        assert any(re.search(rf"(^|[ .]){re.escape(name)} ", line) for line in lines), name


def test_frame_of_failed_run_says_so() -> None:
    run = with_status(training(), "failed")
    text = printed(Frame(Snapshot((run,), START), View(), "runs"), (80, 24))
    assert "The training failed, or was interrupted, after step 40." in text
