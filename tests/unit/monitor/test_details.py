"""Tests the picture of one run."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tbx_callbacks.monitor.details import details
from tbx_callbacks.monitor.view import View
from tbx_callbacks.monitor.watched_runs import WatchedRun
from tests.helpers.watched import START, series, training, watched


def shown(run: WatchedRun, width: int = 80, height: int = 20, view: View | None = None) -> list[str]:
    lines = details(run, view or View(), START + 60, width, height, has_colours=False)
    assert len(lines) <= height
    return [line.plain for line in lines]


def test_details_hold_verdict_speed_curves_layers() -> None:
    lines = shown(training(points=40), width=100)
    assert lines[0].startswith("── exp ── none found ──")
    assert lines[1].startswith("Nothing")
    assert "step 40 of 200 (20 %)   12.5 steps/s   100.0 samples/s   1 min 30 s left   last point 21 s ago" in lines
    (titles,) = (line for line in lines if line.startswith("loss "))
    assert " ".join(titles.split()) == "loss ─ train 0.1 • eval 0.15 grad norm ─ before 0.3 • after 0.3"
    assert any(line.startswith("grad_norm  6 layers ") for line in lines)
    assert sum(line.startswith("layers.") for line in lines) == 6


def test_details_draw_chosen_family() -> None:
    lines = shown(training(), view=View(family="update_ratio"))
    assert any(line.startswith("update_ratio  6 layers ") for line in lines)


def test_details_findings_with_advice_when_tall() -> None:
    run = watched("bad", {"train/loss": series([1.0] * 30 + [math.nan]), "lr/AdamW/a": series([1e-3] * 31)})
    short, tall = shown(run, height=16), shown(run, height=40)
    assert short[1].startswith("error TBX-NUM-001 nonfinite since step 31")
    assert not any("try: " in line for line in short)
    assert any(line.startswith("  try: ") for line in tall)


@pytest.mark.parametrize(
    "run",
    [
        WatchedRun("empty", "/e"),
        WatchedRun("broken", "/b", problem="it is no log " * 40),
        dataclasses.replace(training(), problem="gone", notes=("a file is left out", "another")),
        WatchedRun("histograms", "/h", histograms=12),
        watched("point", {"train/loss": series([1.0])}),
        watched("nan", {"train/loss": series([math.nan]), "grad_norm/total": series([math.inf, -math.inf])}),
        training(layers=200),
        training(layers=0),
        training("n" * 300),
    ],
    ids=lambda run: run.name[:10],
)
def test_details_of_odd_runs_fit(run: WatchedRun) -> None:
    for height in (0, 1, 2, 5, 12, 20, 50):
        shown(run, height=height)


def test_details_say_why_nothing_is_drawn() -> None:
    assert "The run holds histograms (12 tags) and no scalars." in shown(WatchedRun("h", "/h", histograms=12))
    assert "The run holds no values yet." in shown(WatchedRun("e", "/e"))
    assert "cannot be read: it is no log" in shown(WatchedRun("b", "/b", problem="it is no log"))
    kept = shown(dataclasses.replace(training(), problem="gone"))
    assert any(line.startswith("loss ") for line in kept)
