"""Tests the bounded history of a run that rules read."""

from __future__ import annotations

import numpy as np
import pytest

from tbx_callbacks._engine.live_history import RunHistory
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.rules import diagnose


def test_history_bounded_keeps_recent_points() -> None:
    memory = RunHistory(old=100, recent=50)
    for step in range(1, 5001):
        memory.record(step, {"train/loss": 1 / step, "note": Text(str(step))}, step)
    series = memory["train/loss"]
    assert 100 <= len(series) <= 150
    assert series.steps[0] == 1
    assert list(series.steps[-50:]) == list(range(4951, 5001))
    assert set(np.diff(series.steps[:-50])) == {64}
    assert series.values == pytest.approx(1 / series.steps)
    assert memory.run().texts["note"].values == tuple(map(str, range(1, 21)))
    for step in range(3000, 3011):  # trained again from there
        memory.record(step, {"train/loss": 0.0}, step)
    series = memory["train/loss"]
    assert series.steps[-1] == 3010
    assert (np.diff(series.steps) > 0).all()
    assert (series.values[series.steps < 3000] > 0).all()


def test_history_thinned_same_findings_as_whole() -> None:
    whole, thinned = RunHistory(old=10**6), RunHistory(old=100, recent=100)
    dice = np.random.default_rng(0)
    losses = np.append(np.geomspace(0.7, 0.1, 3000), np.full(400, 0.9)) + dice.normal(0, 0.02, 3400)
    for step, loss in enumerate(losses, 1):
        for memory in (whole, thinned):
            memory.record(step, {"train/loss": float(loss)}, step)
    by_doctor, live = ([f.id for f in diagnose(memory.run()).findings] for memory in (whole, thinned))
    assert by_doctor == live == ["divergence"]
