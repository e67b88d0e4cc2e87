"""Tests the number of calls in a step without due metrics; it is the same on every machine."""

from __future__ import annotations

import gc

import pytest

from tests.helpers.runs import ROOT, module_at

BENCHMARK = ROOT / "benchmarks" / "attached.py"
# All three watch a few weights for changes outside of the step. Lightning compares a gradient around clipping.
MOST = {"HF Trainer": 44, "Lightning Trainer": 53, "plain loop": 32}


@pytest.mark.filterwarnings("ignore")  # the benchmark trains with no worker and without a logger
@pytest.mark.parametrize("trainer", ["HF Trainer", "Lightning Trainer", "plain loop"])
def test_engine_step_without_due_metrics_few_calls(trainer: str) -> None:
    gc.collect()  # callbacks of other tests may still hold hooks
    assert 10 < module_at(BENCHMARK).calls(trainer) < MOST[trainer]
