"""Builds series for tests of rules, and one run with a finding for each rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tbx_callbacks.rules import Finding, diagnose
from tbx_callbacks.rules.wiring import RULES as WIRING_RULES
from tbx_callbacks.runs.series import Run, Series, Texts

N = 60


FALLING = np.geomspace(0.7, 0.1, N)


NOISE = 0.02 * np.random.default_rng(0).standard_normal(N)


def series(values: Sequence[float] | np.ndarray[Any, Any], every: int = 10) -> Series:
    numbers = np.asarray(values, np.float64)
    steps = every * np.arange(1, len(numbers) + 1)
    return Series(steps, numbers, steps.astype(np.float64))


def run_of(scalars: Mapping[str, Any], texts: Mapping[str, tuple[int, str]] | None = None) -> Run:
    printed = {tag: Texts(np.array([step]), (text,), np.zeros(1)) for tag, (step, text) in (texts or {}).items()}
    return Run({tag: one if isinstance(one, Series) else series(one) for tag, one in scalars.items()}, texts=printed)


def findings_of(scalars: Mapping[str, Any], texts: Mapping[str, tuple[int, str]] | None = None) -> dict[str, Finding]:
    return {finding.id: finding for finding in diagnose(run_of(scalars, texts)).findings}


def flat(value: float, number: int = N) -> np.ndarray[Any, Any]:
    return np.full(number, value)


def with_last(value: float) -> np.ndarray[Any, Any]:
    return np.append(FALLING, value)


HEALTHY = {
    "train/loss": FALLING + NOISE,
    "eval/loss": series(np.geomspace(0.7, 0.2, 6), every=100),
    "lr/AdamW/pg1": np.interp(np.arange(N), [0, 6, N - 1], [0.1, 1, 0]) * 5e-5,
}


# rule -> series with a finding, and a tag and the first step of its evidence
CASES: dict[str, tuple[Mapping[str, Any], str, int]] = {
    "nonfinite": ({"train/loss": with_last(np.nan)}, "train/loss", 610),
    "eval_loss_not_finite": ({"eval/loss": series([0.6, 0.5, np.nan, 0.4], every=100)}, "eval/loss", 300),
    "divergence": ({"train/loss": np.append(FALLING, flat(0.9, 20))}, "train/loss", 600),
    "loss_spike": ({"train/loss": np.insert(FALLING, 40, 2.0)}, "train/loss", 410),
    "learning_rate_too_high": (
        {"train/loss": [0.7, 0.75, 1.5, 1.6, 1.5, *flat(0.8)], "train/learning_rate": flat(1e-2, 65)},
        "train/learning_rate",
        10,
    ),
    "no_warmup": ({"train/learning_rate": np.linspace(5e-5, 0, N)}, "train/learning_rate", 10),
    "decayed_early": (
        {"lr-AdamW": [*np.linspace(1e-6, 5e-5, 5), *np.linspace(5e-5, 0, 20), *flat(0.0, 40)]},
        "lr-AdamW",
        250,
    ),
    "underfitting": ({"train_loss": 0.7 + NOISE}, "train_loss", 10),
    "plateau": ({"train/loss": [*np.geomspace(0.7, 0.4, 15), *(0.4 + NOISE[:45])]}, "train/loss", 250),
    "overfitting": (
        {"train/loss": FALLING, "val_loss": series([0.6, 0.4, 0.3, 0.45, 0.5], every=100)},
        "val_loss",
        300,
    ),
    "eval_disagrees": (
        {
            "train/loss": FALLING,
            "eval/loss": series([0.8, 1.2, 2.0], every=100),
            "eval/accuracy": series([0.4, 0.2, 0.1], every=100),
        },
        "eval/accuracy",
        100,
    ),
    "accuracy_gap": ({"train/accuracy": flat(0.99), "eval/accuracy": series(flat(0.7, 4), 100)}, "train/accuracy", 400),
    "restart_spike": (
        {
            "train/loss": [*np.linspace(0.9, 0.5, 20), *flat(1.5, 15), *flat(0.5, 5), *flat(1.5, 15), *flat(0.5, 5)],
            "train/learning_rate": np.tile(np.geomspace(1, 1e-3, 20), 3),
        },
        "train/loss",
        210,
    ),
    "vanishing_gradients": (
        {f"grad_norm/bert.encoder.layer.{n}": flat(0.03 ** (3 - n)) for n in range(4)},
        "grad_norm/bert.encoder.layer.0",
        10,
    ),
    "exploding_gradients": (
        {f"grad_norm/bert.encoder.layer.{n}": flat(10.0 ** (3 - n)) for n in range(4)},
        "grad_norm/bert.encoder.layer.0",
        10,
    ),
    "zero_gradient": ({"grad_norm/a": flat(0.0), "grad_norm/b": flat(1.0)}, "grad_norm/a", 10),
    "all_frozen": ({"weight_norm/a": flat(2.0), "weight_norm/b": flat(1.0)}, "weight_norm/b", 10),
    "head_only": (
        {"weight_norm/encoder.layer.0": flat(2.0), "weight_norm/classifier": FALLING},
        "weight_norm/encoder.layer.0",
        10,
    ),
    "frozen_layers": (
        {"weight_norm/layer.0": FALLING, "weight_norm/layer.1": flat(2.0), "weight_norm/layer.2": FALLING},
        "weight_norm/layer.1",
        10,
    ),
    "update_too_large": ({"update_ratio/layer.0": flat(0.2)}, "update_ratio/layer.0", 10),
    "update_too_small": ({"update_ratio/layer.0": flat(1e-8)}, "update_ratio/layer.0", 10),
    "clipping_saturated": ({"clip/factor": flat(0.01), "clip/share": flat(1.0)}, "clip/factor", 10),
    "dead_activations": (
        {"activations/layer.0.mlp/zero_share": [*flat(0.5, 20), *flat(0.995, 40)]},
        "activations/layer.0.mlp/zero_share",
        210,
    ),
    "amp_scale_collapse": ({"amp/scale": 65536 / 2.0 ** np.arange(20)}, "amp/scale", 180),
    "amp_skipped_steps": ({"amp/skipped_steps": flat(1.0)}, "amp/skipped_steps", 10),
    "replicas_differ": (
        {"replicas/weights/total": np.repeat([0.0, 2.0], 5), "replicas/weights/a": flat(1.0, 10)},
        "replicas/weights/total",
        60,
    ),
    "slow_rank": ({"time/slowest_rank": flat(3.0), "time/slowest_lead": flat(0.3)}, "time/slowest_rank", 10),
    "input_bound": ({"perf/input_share": flat(0.6)}, "perf/input_share", 10),
    "class_never_predicted": (
        {
            "train/loss": [*np.geomspace(0.7, 0.1, 20), *flat(0.1, N - 20)],
            "train/labels": flat(64.0),
            **{f"train/label_share/{n}": flat(share) for n, share in enumerate((0.95, 0.05))},
            **{f"train/predicted_share/{n}": flat(share) for n, share in enumerate((1.0, 0.0))},
        },
        "train/predicted_share/1",
        410,
    ),
    "lora_not_training": (
        {"weight_norm/q.lora_A.default.weight": flat(1.0), "weight_norm/q.lora_B.default.weight": flat(0.0)},
        "weight_norm/q.lora_B.default.weight",
        10,
    ),
    "weights_shrink": ({"weight_norm/a": np.geomspace(5, 1, N), "weight_norm/b": flat(1.0)}, "weight_norm/a", 10),
    "uneven_drift": (
        {f"drift/{name}": np.linspace(0, last, N) for name, last in (("a", 0.5), ("b", 0.01), ("c", 0.02))},
        "drift/a",
        600,
    ),
    "entropy_collapse": (
        {"train/entropy": np.geomspace(1.0, 0.01, N), "train/reward": flat(0.5)},
        "train/entropy",
        250,
    ),
    "kl_runaway": ({"train/kl": 1e-3 * 1.2 ** np.arange(N)}, "train/kl", 400),
    "no_reward_variance": ({"train/frac_reward_zero_std": flat(1.0)}, "train/frac_reward_zero_std", 10),
    "likelihood_falls": (
        {"train/logps/chosen": np.linspace(-100, -200, N), "train/logps/rejected": np.linspace(-100, -300, N)},
        "train/logps/chosen",
        10,
    ),
    "completions_truncated": ({"train/completions/clipped_ratio": flat(0.9)}, "train/completions/clipped_ratio", 10),
}

# The checks of the wiring: one number above 0, or above the rule's own limit.
WIRING = {
    "labels_ignored": 1.0,
    "perfect_at_once": 1.0,
    "first_loss_unusual": 7.0,
    "unknown_tokens": 0.4,
    "eval_mode_in_training": 1.0,
    "weights_changed_outside": 0.1,
}
DETAILS = {"repeated_batches": "16 rows"}
CASES.update(
    {name: ({f"wiring/{name}": series([WIRING.get(name, 3.0)], every=3)}, f"wiring/{name}", 3) for name in WIRING_RULES}
)
