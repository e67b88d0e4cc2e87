"""Tests plots of two curves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tbx_callbacks.monitor.curves import Pair
from tbx_callbacks.monitor.plot import plot
from tests.helpers.watched import series


def bodies(pair: Pair, width: int = 29, height: int = 4) -> list[str]:
    lines = [line.plain for line in plot(pair, width, height)]
    assert [len(line) for line in lines] == [width] * height
    return [line.partition("│")[2] for line in lines]


def test_plot_of_falling_line_touches_ends() -> None:
    lines = bodies(Pair(series(np.linspace(1, 0, 80).tolist()), None))
    assert lines[0][0] != " "
    assert lines[0][-1] == " "
    assert lines[-1][-1] != " "
    assert lines[-1][0] == " "
    columns = ["".join(line[n] for line in lines).strip() for n in range(20)]
    assert all(columns)  # no gap


def test_plot_of_few_points_connects_them() -> None:
    lines = bodies(Pair(series([0.0, 1.0]), None))
    assert all("".join(line[n] for line in lines).strip() for n in range(20))


def test_plot_keeps_spike_among_many_points() -> None:
    values = np.ones(100_000)
    values[70_000] = 9.0
    lines = bodies(Pair(series(values.tolist()), None))
    assert [n for n, character in enumerate(lines[0]) if character != " "] == [
        13
    ]  # of the 40 dots across, dot 0.7 * 39


def test_plot_marks_points_and_nan() -> None:
    lines = bodies(Pair(series([1.0] * 20), series([0.5, math.nan], every=10)))
    assert [line.count("•") for line in lines] == [0, 0, 0, 1]
    assert lines[-1][-1] == "x"


@pytest.mark.parametrize("values", [[1.0], [math.nan], [math.inf, -math.inf], [1.7e308, -1.7e308], [0.0] * 5, []])
def test_plot_of_odd_values_fits(values: list[float]) -> None:
    pair = Pair(series(values) if values else None, None)
    assert len(plot(pair, 40, 5)) == 5
    assert all(line.cell_len <= 40 for line in plot(pair, 40, 5))
    assert plot(pair, 40, 0) == []
    assert len(plot(pair, 3, 2)) == 2


def test_plot_labels_ends_and_logarithm() -> None:
    lines = [line.plain.partition("│")[0].strip() for line in plot(Pair(series([1e-3, 1.0]), None), 30, 5)]
    assert lines == ["1", "", "log", "", "0.001"]
