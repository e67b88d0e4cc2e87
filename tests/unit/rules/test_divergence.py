"""Tests rules about the shape of the training loss."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.rule_cases import FALLING, findings_of, series


def test_batch_noise_no_spike_no_divergence() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        loss = np.geomspace(0.7, 0.05, 300) * rng.gamma(5, 1 / 5, 300)
        assert not {"loss_spike", "divergence"} & set(findings_of({"train/loss": loss}))


N_POINTS = np.arange(1, 61)


@pytest.mark.parametrize(
    "loss",
    [
        -2.4 * (1 - np.exp(-N_POINTS / 15)) + 0.2,
        -3 + 2 * np.exp(-N_POINTS / 12),
        100 * np.exp(-N_POINTS / 12) - 300,
        1e-4 * (np.exp(-N_POINTS / 5) - 0.5),
        0 * N_POINTS,
        0 * N_POINTS - 1.0,
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_loss_of_any_sign_no_finding(loss: np.ndarray, noise: float) -> None:
    spread = max(float(np.ptp(loss)), 1e-3)
    for seed in range(5):
        dice = np.random.default_rng(seed)
        assert findings_of({"train/loss": loss + noise * spread * dice.standard_normal(60)}) == {}


def test_loss_around_zero_no_finding() -> None:
    for seed in range(50):
        dice = np.random.default_rng(seed)
        assert findings_of({"train/loss": 0.01 * dice.standard_normal(60)}) == {}


@pytest.mark.parametrize("offset", [0.0, -0.5, -3.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_divergence_found_at_any_sign(offset: float, scale: float) -> None:
    loss = np.append(np.exp(-N_POINTS[:30] / 8), np.linspace(0.5, 4, 30)) + offset
    assert findings_of({"train/loss": scale * loss})["divergence"].steps[0] == pytest.approx(300, abs=60)


@pytest.mark.parametrize("offset", [0.0, -0.5, -3.0])
def test_spike_found_at_any_sign(offset: float) -> None:
    loss = np.insert(np.exp(-N_POINTS / 8), 40, 2.0) + offset
    assert findings_of({"train/loss": loss})["loss_spike"].steps == (410,)


def test_spike_between_points_names_interval() -> None:
    finding = findings_of({"train/loss": np.insert(FALLING, 40, 2.0)})["loss_spike"]
    assert "between steps 401 and 410" in finding.means
    every_step = findings_of({"train/loss": series(np.insert(FALLING, 40, 2.0), every=1)})["loss_spike"]
    assert "at step 41 " in every_step.means


def test_spike_after_restart_names_rate() -> None:
    rates = np.tile(np.linspace(1e-3, 1e-5, 20), 3)
    loss = np.append(FALLING[:40], [2.0, 1.5, 1.0, *FALLING[40:57]])
    finding = findings_of({"train/loss": loss, "train/learning_rate": rates})["loss_spike"]
    assert "restarted at 0.001" in finding.means
    assert "restart at a lower peak" in finding.advice


def test_divergence_short_run_is_found() -> None:
    loss = [0.7, 0.6, 0.5, 0.4, 0.3, 0.3, 1.5, 1.6, 1.7, 1.6, 1.7, 1.8]
    assert findings_of({"train/loss": loss})["divergence"].severity == "error"


def test_divergence_of_tiny_noisy_loss_no_finding() -> None:
    for seed in range(30):
        dice = np.random.default_rng(seed)
        assert "divergence" not in findings_of({"train/loss": 1e-3 * dice.gamma(5, 2, 200)})
