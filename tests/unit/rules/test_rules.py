"""Rules as what they are: pure functions from series to findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tbx_callbacks.rules import RULES, SEVERITIES, Finding, default_rules, diagnose
from tbx_callbacks.rules.series_stats import outermost, stack
from tbx_callbacks.runs.series import Run, Series, Texts, scalar_points, series_of

N = 60
FALLING = np.geomspace(0.7, 0.1, N)
NOISE = 0.02 * np.random.default_rng(0).standard_normal(N)


def series(values: Sequence[float] | np.ndarray[Any, Any], every: int = 10) -> Series:
    numbers = np.asarray(values, np.float64)
    steps = every * np.arange(1, len(numbers) + 1)
    return Series(steps, numbers, steps.astype(np.float64))


def run_of(scalars: Mapping[str, Any], texts: Mapping[str, tuple[int, str]] | None = None) -> Run:
    said = {tag: Texts(np.array([step]), (text,), np.zeros(1)) for tag, (step, text) in (texts or {}).items()}
    return Run({tag: one if isinstance(one, Series) else series(one) for tag, one in scalars.items()}, texts=said)


def found(scalars: Mapping[str, Any], texts: Mapping[str, tuple[int, str]] | None = None) -> dict[str, Finding]:
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

# rule -> what makes it speak, and a tag and the first step of the evidence
CASES: dict[str, tuple[Mapping[str, Any], str, int]] = {
    "nonfinite": ({"train/loss": with_last(np.nan)}, "train/loss", 610),
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
    "input_bound": ({"perf/input_share": flat(0.6)}, "perf/input_share", 10),
    "lora_not_training": (
        {"weight_norm/q.lora_A.default.weight": flat(1.0), "weight_norm/q.lora_B.default.weight": flat(0.0)},
        "weight_norm/q.lora_B.default.weight",
        10,
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_speaks_with_its_evidence(rule: str) -> None:
    scalars, tag, step = CASES[rule]
    finding = found(scalars)[rule]
    assert tag in finding.tags
    assert finding.steps[0] == step
    assert finding.severity in SEVERITIES
    assert finding.means.endswith(".")
    assert finding.advice.endswith(".")
    assert finding.source == RULES[rule].source
    assert all(np.isfinite(number) for number in finding.numbers.values())


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_silent_without_its_tags_and_on_short_runs(rule: str) -> None:
    scalars, _, _ = CASES[rule]
    assert list(default_rules()[rule](Run())) == []
    whole = run_of(scalars)
    short = {tag: Series(one.steps[:2], one.values[:2], one.wall_times[:2]) for tag, one in whole.scalars.items()}
    if rule != "nonfinite":  # one NaN is enough
        assert list(default_rules()[rule](Run(short))) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_named_thresholds_and_what_the_registry_says(rule: str) -> None:
    cls = RULES[rule]
    assert cls.id == rule
    assert cls.needs
    assert cls.source
    assert all(isinstance(option.default, (int, float)) for option in dataclasses.fields(cls))  # type: ignore[arg-type]
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_a_healthy_run_has_no_finding() -> None:
    assert found(HEALTHY) == {}


@pytest.mark.parametrize("length", [1, 3, 8, 15])
def test_short_noisy_runs_have_no_finding(length: int) -> None:
    rng = np.random.default_rng(length)
    for _ in range(50):
        scalars = {
            "train/loss": 0.7 + 0.3 * rng.standard_normal(length),
            "train/grad_norm": rng.lognormal(size=length),
            "train/learning_rate": np.linspace(1e-6, 5e-5, length),
            "eval/loss": series(0.7 + 0.02 * rng.standard_normal(2)),
        }
        assert found(scalars) == {}


def test_noise_of_batches_is_no_spike_and_no_divergence() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        loss = np.geomspace(0.7, 0.05, 300) * rng.gamma(5, 1 / 5, 300)
        assert not {"loss_spike", "divergence"} & set(found({"train/loss": loss}))


def test_the_layer_that_went_bad_first_is_named_where_it_can_be_told() -> None:
    text = "step 400: gradients hold NaN or Inf in 2 of 6 groups; backward reached bert.encoder.layer.1 first"
    scalars = {
        "nonfinite/found": series([*flat(0, 39), 1, 1]),
        "nonfinite/losses": series([*flat(0, 40), 8]),
        "nonfinite/gradients/total": series([*flat(0, 39), 7, 7]),
        "nonfinite/gradients/bert.encoder.layer.1": Series(np.array([400]), np.array([7.0]), np.zeros(1)),
        "nonfinite/weights/total": series([*flat(0, 39), 5, 5]),
    }
    finding = found(scalars, {"nonfinite/first_bad": (400, text)})["nonfinite"]
    assert finding.severity == "error"
    assert finding.steps == (400,)
    assert finding.tags[0] == "nonfinite/gradients/bert.encoder.layer.1"
    assert "first in bert.encoder.layer.1" in finding.means
    assert "first in bert.encoder.layer.1" in found(scalars)["nonfinite"].means  # from the counts alone
    scalars["nonfinite/losses"] = series([*flat(0, 39), 3, 8])
    finding = found(scalars, {"nonfinite/first_bad": (400, text)})["nonfinite"]
    assert "layer" not in finding.means
    assert "every: 1" in finding.advice


def test_steps_that_fp16_skips_are_no_fault() -> None:
    norms = np.ones(N)
    norms[:4] = np.inf
    assert found({"train/grad_norm": norms})["nonfinite"].severity == "note"
    assert found({"train/grad_norm": norms[::-1]})["nonfinite"].severity == "error"
    counts = {"nonfinite/gradients/total": [3, *flat(0)], "nonfinite/weights/total": flat(0, N + 1)}
    assert found(counts)["nonfinite"].severity == "note"
    assert found({**counts, "nonfinite/weights/total": [3, *flat(0)]})["nonfinite"].severity == "error"


def test_layers_frozen_from_the_bottom_are_a_note() -> None:
    still = {f"weight_norm/{name}": flat(2.0) for name in ("bert.embeddings", "bert.encoder.layer.0")}
    moving = {f"weight_norm/{name}": FALLING for name in ("bert.encoder.layer.1", "classifier")}
    assert found({**still, **moving})["frozen_layers"].severity == "note"


def test_overfitting_is_not_said_where_evaluation_just_wavers() -> None:
    evaluation = series([0.6, 0.4, 0.3, 0.31, 0.33, 0.32], every=100)
    assert "overfitting" not in found({"train/loss": FALLING, "eval/loss": evaluation})
    falls_too = series([0.6, 0.4, 0.3, 0.45, 0.5], every=100)
    assert "overfitting" not in found({"train/loss": flat(0.5), "eval/loss": falls_too})  # training did not go on


def test_a_finished_run_is_no_plateau() -> None:
    assert found({"train/loss": [*np.geomspace(0.7, 0.01, 20), *flat(0.01, 40)]}) == {}


def test_warm_up_that_could_not_be_seen_is_not_missed() -> None:
    assert found({"train/learning_rate": series(np.linspace(5e-5, 0, 12), every=500)}) == {}


def test_restarts_of_the_rate_are_no_early_end() -> None:
    saw = np.concatenate([np.linspace(1e-6, 5e-5, 5), np.tile(np.linspace(5e-5, 0, 10), 5)])
    assert found({"lr/AdamW/pg1": saw}) == {}


def test_what_could_not_be_judged_names_the_metric() -> None:
    unjudged = {one.id: one for one in diagnose(run_of({"train/loss": FALLING[:5]})).unjudged}
    assert "update_ratio" in unjudged["update_too_large"].metric
    assert unjudged["update_too_large"].missing == "update ratios by layer (update_ratio/...)"
    assert unjudged["loss_spike"].missing == "30 points of the training loss, there are 5"
    assert "nonfinite" not in unjudged
    assert set(unjudged) == set(RULES) - {"nonfinite"}


def test_findings_come_worst_first() -> None:
    scalars = {**CASES["nonfinite"][0], "clip/factor": flat(0.01), "train/learning_rate": flat(1e-3)}
    severities = [finding.severity for finding in diagnose(run_of(scalars)).findings]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert severities[0] == "error"
    assert severities[-1] == "note"


def test_a_growing_run_is_judged_again_and_again() -> None:
    loss = scalar_points()
    said = {}
    for place, value in enumerate(np.append(FALLING, flat(0.9, 20)), 1):
        loss.add(10 * place, float(value), 0.0)
        for finding in diagnose(Run({"train/loss": series_of(loss)})).findings:
            said.setdefault(finding.id, place)
    assert N < said["divergence"] <= N + 10


def test_layers_put_together_what_was_logged_by_parameter() -> None:
    parameters = {
        f"grad_norm/encoder.layer.{n}.{part}.weight": series([3.0 + part]) for n in (10, 2) for part in (0, 1)
    }
    layers = stack(outermost(parameters))
    assert list(layers) == ["encoder.layer.2", "encoder.layer.10"]
    assert layers["encoder.layer.2"].tolist() == [5.0]
    with_layer = {**parameters, "grad_norm/encoder.layer.2": series([7.0])}
    assert "encoder.layer.2.0.weight" not in outermost(with_layer)
    assert "encoder.layer.10.0.weight" in outermost(with_layer)
