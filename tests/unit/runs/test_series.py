"""Series of points that grow."""

from __future__ import annotations

from tbx_callbacks.runs.series import Series, scalar_points, series_of


def points(series: Series) -> list[tuple[int, float]]:
    return list(zip(series.steps.tolist(), series.values.tolist(), strict=True))


def test_series_of_growing_points_unchanged() -> None:
    growing = scalar_points()
    growing.add(1, 0.5, 10.0)
    before = series_of(growing)
    growing.add(2, 0.25, 11.0)
    assert points(before) == [(1, 0.5)]
    assert points(series_of(growing)) == [(1, 0.5), (2, 0.25)]
