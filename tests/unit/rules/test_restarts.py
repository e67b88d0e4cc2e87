"""Tests the rule about warm restarts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.rule_cases import findings_of

CYCLE, CYCLES = 20, 4
RATES = np.tile(0.5 * (1 + np.cos(np.pi * np.arange(CYCLE) / CYCLE)) + 1e-3, CYCLES)


def losses(thrown: float, kept: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A loss that each restart multiplies by `thrown`; at half of the cycle, `kept` of it is left."""
    each = np.geomspace(1, 1e-3, CYCLE)
    falling = [
        0.5 * 0.8**cycle * (1 + (thrown - 1) * np.maximum(each, kept * (np.arange(CYCLE) < 15)))
        for cycle in range(CYCLES)
    ]
    falling[0] = np.linspace(0.9, 0.5, CYCLE)
    return np.concatenate(falling)


@pytest.mark.parametrize(("thrown", "kept", "found"), [(4, 0.4, True), (4, 0.0, False), (1.2, 0.9, False)])
def test_restart_spike_only_if_loss_stays_up(thrown: float, kept: float, found: bool) -> None:
    scalars = {"train/loss": losses(thrown, kept), "train/learning_rate": RATES}
    finding = findings_of(scalars).get("restart_spike")
    assert (finding is not None) == found
    assert finding is None or finding.steps[0] == 10 * (CYCLE + 1)


def test_restart_spike_warmup_is_no_restart() -> None:
    warmup = np.concatenate([[1e-6, 1e-3], np.linspace(1e-2, 1, 10), np.linspace(1, 0.01, 68)])
    assert "restart_spike" not in findings_of({"train/loss": losses(4, 0.4), "train/learning_rate": warmup})


def test_restart_spike_one_of_many_no_finding() -> None:
    loss = losses(1.0, 0.0)
    loss[CYCLE : 2 * CYCLE - 2] *= 4
    assert "restart_spike" not in findings_of({"train/loss": loss, "train/learning_rate": RATES})
