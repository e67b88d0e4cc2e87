"""Tests heat maps of layers over steps."""

from __future__ import annotations

import math

import pytest

from tbx_callbacks.monitor.heat import COLOURS, heat
from tests.helpers.watched import series


def test_heat_levels_follow_values() -> None:
    rows = {f"model.layers.{n}": series([float(n)] * 4) for n in range(5)}
    legend, *lines = heat(rows, 30, 6, has_colours=False)
    assert legend.plain == "5 layers  0 ·░▒▓█ 4"
    cells = [line.plain.partition(" ")[2].strip() for line in lines]
    assert [set(cell) for cell in cells] == [{"·"}, {"░"}, {"▒"}, {"▓"}, {"█"}]
    assert all(line.cell_len <= 30 for line in lines)


def test_heat_with_colours_has_backgrounds() -> None:
    rows = {"a": series([1.0, 2.0]), "b": series([3.0, 4.0]), "c": series([1.0, 4.0])}
    lines = heat(rows, 30, 5, has_colours=True)
    styles = [str(span.style) for span in lines[3].spans]
    assert styles == [f"on {COLOURS[0]}", f"on {COLOURS[-1]}"]


def test_heat_of_many_layers_shares_lines() -> None:
    rows = {f"model.layers.{n}": series([1.0 + (n == 150)]) for n in range(200)}
    legend, *lines = heat(rows, 80, 11, has_colours=False)
    assert legend.plain.startswith("200 layers in 10 lines, the largest value counts")
    assert len(lines) == 10
    assert lines[7].plain.startswith("layers.140 to layers.159 ")
    assert ["█" in line.plain for line in lines] == [n == 7 for n in range(10)]


def test_heat_bad_zero_and_missing_told_apart() -> None:
    rows = {
        "bad": series([math.nan, math.inf, 1.0, 1.0]),
        "zero": series([0.0, 0.0, 1000.0, 1.0]),
        "late": series([1.0], every=4),
    }
    _, bad, zero, late = (line.plain[5:] for line in heat(rows, 13, 4, has_colours=False))
    assert bad[:4] == "xxxx"
    assert zero[:4] == "0000"
    assert late == "      ··"


@pytest.mark.parametrize("height", [0, 1, 2, 3])
def test_heat_never_higher_than_asked(height: int) -> None:
    rows = {f"l.{n}": series([1.0]) for n in range(7)}
    assert len(heat(rows, 20, height, has_colours=True)) == height
    assert heat({}, 20, height, has_colours=True) == []
