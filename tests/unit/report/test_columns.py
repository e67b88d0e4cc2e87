"""Tests the columns of numbers that a page carries."""

from __future__ import annotations

import numpy as np
import pytest

from tbx_callbacks.report.columns import EXACT, step_column, value_column


@pytest.mark.parametrize(
    "steps", [[1, 2, 3], [], [-(2**31), 2**31 - 1], [0, 2**31], [-(2**31) - 1, 5], [EXACT - 1, EXACT], [-EXACT, EXACT]]
)
def test_step_column_keeps_every_exact_step(steps: list[int]) -> None:
    assert [int(step) for step in step_column(np.array(steps, np.int64))] == steps


def test_step_column_small_steps_take_four_bytes() -> None:
    assert step_column(np.array([1, 2])).dtype == np.int32
    assert step_column(np.array([1, 2**40])).dtype == np.float64


@pytest.mark.parametrize("value", [1.0, 0.0, -3e38, 1e-37, 1e39, -1.7e308, 1e-40, 5e-324])
def test_value_column_keeps_size_of_values(value: float) -> None:
    assert value_column(np.array([value, 1.0]))[0] == pytest.approx(value, rel=1e-6, abs=0)


def test_value_column_infinity_becomes_gap() -> None:
    column = value_column(np.array([np.inf, -np.inf, np.nan, 1.0]))
    assert column.dtype == np.float32
    assert np.isnan(column).tolist() == [True, True, True, False]
