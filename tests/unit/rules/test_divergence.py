"""Tests rules about the shape of the training loss."""

from __future__ import annotations

import numpy as np

from tests.helpers.rule_cases import findings_of


def test_batch_noise_no_spike_no_divergence() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        loss = np.geomspace(0.7, 0.05, 300) * rng.gamma(5, 1 / 5, 300)
        assert not {"loss_spike", "divergence"} & set(findings_of({"train/loss": loss}))
