"""Tests the rules that audit reinforcement learning and preference tuning."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.rule_cases import FALLING, N, findings_of, flat

DICE = np.random.default_rng(0)
GRPO = {"train/loss": 0.01 * DICE.standard_normal(N), "train/reward": np.linspace(0.1, 0.9, N)}


def test_healthy_grpo_run_no_finding() -> None:
    scalars = {
        **GRPO,
        "train/entropy": np.linspace(1.0, 0.5, N),
        "train/kl": np.linspace(0, 2, N),
        "train/frac_reward_zero_std": np.linspace(0.1, 0.6, N),
        "train/completions/clipped_ratio": np.linspace(0.6, 0.1, N),
    }
    assert findings_of(scalars) == {}


@pytest.mark.parametrize("loss", [np.linspace(0, 0.04, N), np.geomspace(1e-4, 1, N), flat(0.0), -np.linspace(0, 1, N)])
def test_policy_gradient_loss_is_not_judged(loss: np.ndarray) -> None:
    assert findings_of({**GRPO, "train/loss": loss}) == {}


def test_entropy_of_supervised_run_may_fall() -> None:
    assert findings_of({"train/loss": FALLING, "train/entropy": np.geomspace(1, 0.01, N)}) == {}


def test_preference_run_chosen_rises_no_finding() -> None:
    rejected = np.linspace(-100, -300, N)
    scalars = {"train/loss": FALLING, "train/logps/chosen": np.linspace(-100, -90, N), "train/logps/rejected": rejected}
    assert findings_of(scalars) == {}
    slightly = {**scalars, "train/logps/chosen": np.linspace(-100, -110, N)}
    assert findings_of(slightly) == {}
    assert set(findings_of({**scalars, "train/logps/chosen": np.linspace(-100, -150, N)})) == {"likelihood_falls"}


@pytest.mark.parametrize("prefix", ["train/", ""])
def test_audit_reads_tags_of_any_writer(prefix: str) -> None:
    scalars = {f"{prefix}frac_reward_zero_std": flat(0.9), f"{prefix}completions/clipped_ratio": flat(0.7)}
    assert set(findings_of(scalars)) == {"no_reward_variance", "completions_truncated"}
