"""Tests the registry of metrics."""

from __future__ import annotations

import dataclasses

import pytest

from tbx_callbacks.metrics.registry import METRICS

# the words that metrics/base.py documents
NEEDS = {"gradients", "before_clip", "weights_before", "activations", "batches", "losses", "predictions", "loss_scale"}
NEEDS |= {"clipping", "nonfinite", "wiring", "examples", "bad_batches"}
NEEDS |= {"initial_weights", "adapters", "whole_weights", "times", "microbatches", "padding"}


@pytest.mark.parametrize("name", METRICS)
def test_registry_metric_describes_itself(name: str) -> None:
    cls = METRICS[name]
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert cls.events <= {"start", "step", "log", "end"}
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(cls))  # type: ignore[arg-type]
    assert cls.needs <= NEEDS
    assert cls.tags
    assert cls.cost
    if name not in ("train_accuracy", "examples"):  # their groups are classes, and values of a column
        assert ("{group}" in "".join(cls.tags)) == (cls.select is not None)
