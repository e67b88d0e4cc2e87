"""Tests series of points that grow."""

from __future__ import annotations

from tbx_callbacks.runs.series import Run, Series, scalar_points, series_of


def points(series: Series) -> list[tuple[int, float]]:
    return list(zip(series.steps.tolist(), series.values.tolist(), strict=True))


def test_series_of_growing_points_unchanged() -> None:
    growing = scalar_points()
    growing.add(1, 0.5, 10.0)
    before = series_of(growing)
    growing.add(2, 0.25, 11.0)
    assert points(before) == [(1, 0.5)]
    assert points(series_of(growing)) == [(1, 0.5), (2, 0.25)]


def test_points_earlier_step_cuts_later_ones() -> None:
    growing = scalar_points()
    for step, value in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0)):
        growing.add(step, value, 0.0)
    assert points(series_of(growing)) == [(1, 1.0), (2, 20.0)]


def test_points_thinned_keep_first() -> None:
    growing = scalar_points()
    for step in range(1, 6):
        growing.add(step, float(step), 10.0 * step)
    growing.thin()
    assert points(series_of(growing)) == [(1, 1.0), (3, 3.0), (5, 5.0)]
    assert growing.pop_first() == (1, 1.0, 10.0)
    assert len(growing) == 2


def test_run_last_step_over_all_scalars() -> None:
    growing = scalar_points()
    growing.add(7, 1.0, 0.0)
    assert Run({"a": series_of(growing), "b": series_of(scalar_points())}).last_step == 7
    assert Run().last_step == 0


def test_points_last_step_known() -> None:
    points = scalar_points()
    assert points.last_step == -1
    points.add(3, 0.5, 0.0)
    assert points.last_step == 3
