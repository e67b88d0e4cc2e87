"""Tests conversions of fields of logs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tbx_callbacks.runs.formats.fields import csv_number, keras_tags, number_of, step_of, time_of


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (True, 1.0), (2.5, 2.5), ("inf", math.inf), ("-Infinity", -math.inf), (10**400, math.inf)],
)
def test_number_of_number_converted(value: Any, number: float) -> None:
    assert number_of(value) == number


@pytest.mark.parametrize("value", ["1.5", "", None, [1], {"a": 1}])
def test_number_of_other_value_is_none(value: Any) -> None:
    assert number_of(value) is None


def test_csv_number_reads_cells() -> None:
    assert (csv_number("1e-3"), csv_number(""), csv_number("x")) == (1e-3, None, None)
    assert math.isnan(csv_number("nan") or 0.0)


@pytest.mark.parametrize("value", [-1, 1.5, "x", None, 1e30, math.nan, math.inf])
def test_step_of_impossible_step_is_none(value: Any) -> None:
    assert step_of({"step": value}, ("step",)) is None


def test_step_of_first_key_wins() -> None:
    assert step_of({"iter": 3, "step": 7}, ("step", "iter")) == 7
    assert step_of({"iter": 3, "step": "x"}, ("step", "iter")) == 3


@pytest.mark.parametrize("value", [12.0, "yesterday", 1e15, None, "9999999-01-01"])
def test_time_of_impossible_time_is_nan(value: Any) -> None:
    key, seconds = time_of({"time": value}, ("time",))
    assert key == ""
    assert math.isnan(seconds)


def test_keras_tags_only_with_plain_loss() -> None:
    named = {"loss": "train/loss", "mae": "train/mae", "val_mae": "eval/mae"}
    assert keras_tags(["epoch", "loss", "mae", "val_mae"]) == named
    assert keras_tags(["epoch", "train_loss", "val_loss"]) == {}
    assert keras_tags(["loss", "train/loss", "train_mae"]) == {}
