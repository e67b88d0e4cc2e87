"""Tests the digest of a metric set: checkpoints keep it, so it must never change for the same set."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tbx_callbacks import Config, load_config
from tbx_callbacks.metrics.norms import WeightNorm
from tbx_callbacks.metrics.registry import METRICS

NORMS: dict[str, Any] = {
    "every": 1,
    "metrics": ["loss", "hparams", {"weight_norm": {"by": "total"}}, {"grad_norm": {"by": "total"}}],
}
RULES: dict[str, Any] = {
    "every": "log",
    "overhead_budget": 0.02,
    "axis": ["step", "samples"],
    "rules": {
        "nonfinite": {"action": ["stop", "checkpoint"]},
        "loss_spike": {"ratio": 3.0},
        "overfitting": False,
        "others": "warn",
    },
    "metrics": [
        "loss",
        {"grad_norm": {"by": {"head": "classifier"}, "exclude": "bias"}},
        {"weight_histogram": {"bins": 32, "every": 50}},
    ],
}


@pytest.mark.parametrize(
    ("data", "digest"), [(NORMS, "37ffd899bf0bc6b3"), (RULES, "b8bbded8dd476d29")], ids=["norms", "rules"]
)
def test_digest_same_set_never_changes(data: dict[str, Any], digest: str) -> None:
    assert load_config(data).digest == digest


def test_digest_of_earlier_checkpoints_matches() -> None:
    # Written by the version that hashed the repr of its objects, under its own class names. That of a set with rules
    # has changed with their thresholds.
    digest = "eef3f623487fdddb"
    assert load_config(NORMS).matches(digest)
    assert not load_config({"metrics": ["loss"]}).matches(digest)


def test_digest_renamed_metric_class_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = dataclasses.dataclass(frozen=True)(type("Renamed", (WeightNorm,), {}))
    expected = load_config(NORMS)
    monkeypatch.setitem(METRICS, "weight_norm", renamed)
    config = load_config(NORMS)
    assert "Renamed" in repr(config)
    assert config.digest == expected.digest


@pytest.mark.parametrize(
    "change",
    [
        {"every": 2},
        {"strict": True},
        {"overhead_budget": 0.03},
        {"axis": ["step", "tokens"]},
        {"best": {"score": "max"}},
        {"every": {"epochs": 1}},
        {"every": {"per_decade": 4}},
        {"every": {"at": [1, 10]}},
        {"writers": [{"tensorboard": {"flush_secs": 5}}]},
        {"rules": {"nonfinite": "warn"}},
        {"rules": {**RULES["rules"], "loss_spike": {"ratio": 4.0}}},
        {"rules": {**RULES["rules"], "overfitting": "warn"}},
        {"rules": {**RULES["rules"], "others": False}},
        {"rules": {**RULES["rules"], "every": 10}},
        {"metrics": RULES["metrics"][:2]},
        {"metrics": [*RULES["metrics"][:2], {"weight_histogram": {"bins": 33, "every": 50}}]},
        {"metrics": [*RULES["metrics"][:2], {"weight_histogram": {"bins": 32, "every": 51}}]},
        {"metrics": ["loss", {"grad_norm": {"by": {"head": "pooler"}, "exclude": "bias"}}, RULES["metrics"][2]]},
    ],
    ids=str,
)
def test_digest_any_other_set_differs(change: dict[str, Any]) -> None:
    assert load_config({**RULES, **change}).digest != load_config(RULES).digest


def test_digest_default_options_written_out_same() -> None:
    short = load_config({"metrics": ["weight_histogram", "loss"]})
    long = load_config({"every": "log", "strict": False, "metrics": [{"weight_histogram": {"bins": 64}}, {"loss": {}}]})
    assert short.digest == long.digest


@pytest.mark.parametrize(
    ("name", "digest"),
    [("default", "53b66fa0ed28cff2"), ("full", "25e52717d1fc4150"), ("minimal", "064cd64d9fff6c2e")],
)
def test_digest_bundled_set_only_with_its_content(name: str, digest: str) -> None:
    assert load_config(name).digest == digest


def test_digest_steps_in_any_order_same() -> None:
    first, second = (load_config({"metrics": ["loss"], "every": {"at": steps}}) for steps in ([1, 100, 7], [7, 1, 100]))
    assert first.digest == second.digest


def test_digest_missing_matches_no_set() -> None:
    assert not Config(()).matches(None)
