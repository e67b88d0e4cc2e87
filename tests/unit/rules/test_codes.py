"""Tests the codes of rules: a code never changes its meaning, and names one rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.rule_options import load_rules
from tbx_callbacks.rules import RULES, default_rules, diagnose
from tbx_callbacks.rules.registry import CODE
from tests.helpers.outside_package import RULE, install
from tests.helpers.rule_cases import CASES, run_of

# Users refer to codes in their files: none is ever removed from this list, or given to another rule.
CODES = {
    "TBX-NUM-001": "nonfinite",
    "TBX-NUM-002": "eval_loss_not_finite",
    "TBX-LOSS-001": "divergence",
    "TBX-LOSS-002": "loss_spike",
    "TBX-LOSS-003": "underfitting",
    "TBX-LOSS-004": "plateau",
    "TBX-LR-001": "learning_rate_too_high",
    "TBX-LR-002": "no_warmup",
    "TBX-LR-003": "decayed_early",
    "TBX-LR-004": "restart_spike",
    "TBX-EVAL-001": "overfitting",
    "TBX-EVAL-002": "eval_disagrees",
    "TBX-EVAL-003": "accuracy_gap",
    "TBX-GRAD-001": "vanishing_gradients",
    "TBX-GRAD-002": "exploding_gradients",
    "TBX-GRAD-003": "zero_gradient",
    "TBX-GRAD-004": "clipping_saturated",
    "TBX-UPD-001": "all_frozen",
    "TBX-UPD-002": "head_only",
    "TBX-UPD-003": "frozen_layers",
    "TBX-UPD-004": "update_too_large",
    "TBX-UPD-005": "update_too_small",
    "TBX-UPD-006": "weights_shrink",
    "TBX-UPD-007": "uneven_drift",
    "TBX-ACT-001": "dead_activations",
    "TBX-AMP-001": "amp_scale_collapse",
    "TBX-AMP-002": "amp_skipped_steps",
    "TBX-DATA-001": "input_bound",
    "TBX-DATA-002": "class_never_predicted",
    "TBX-LORA-001": "lora_not_training",
    "TBX-RL-001": "entropy_collapse",
    "TBX-RL-002": "kl_runaway",
    "TBX-RL-003": "no_reward_variance",
    "TBX-RL-004": "likelihood_falls",
    "TBX-RL-005": "completions_truncated",
    "TBX-DIST-001": "replicas_differ",
    "TBX-DIST-002": "slow_rank",
    "TBX-WIRE-001": "parameter_not_optimized",
    "TBX-WIRE-002": "parameter_in_two_optimizers",
    "TBX-WIRE-003": "parameter_not_in_model",
    "TBX-WIRE-004": "no_gradient",
    "TBX-WIRE-005": "unused_parameters",
    "TBX-WIRE-006": "gradients_not_cleared",
    "TBX-WIRE-007": "no_optimizer_step",
    "TBX-WIRE-008": "eval_mode_in_training",
    "TBX-WIRE-009": "train_mode_in_evaluation",
    "TBX-WIRE-010": "labels_ignored",
    "TBX-WIRE-011": "labels_out_of_range",
    "TBX-WIRE-012": "double_softmax",
    "TBX-WIRE-013": "weights_changed_outside",
    "TBX-WIRE-014": "first_loss_not_finite",
    "TBX-WIRE-015": "gradients_summed",
    "TBX-WIRE-016": "batch_norm_single",
    "TBX-WIRE-017": "first_loss_unusual",
    "TBX-WIRE-018": "perfect_at_once",
    "TBX-WIRE-019": "unknown_tokens",
    "TBX-WIRE-020": "labels_sorted",
    "TBX-WIRE-021": "padding_attended",
    "TBX-WIRE-022": "evaluation_rows_in_training",
    "TBX-WIRE-023": "repeated_batches",
    "TBX-WIRE-024": "loss_maximised",
    "TBX-WIRE-025": "nll_of_logits",
}
AREAS = ["NUM", "LOSS", "LR", "EVAL", "GRAD", "UPD", "ACT", "AMP", "DATA", "LORA", "RL", "DIST", "WIRE"]


def test_codes_keep_their_meaning() -> None:
    assert {cls.code: name for name, cls in RULES.items()} == CODES
    assert len(CODES) == len(RULES)  # no two rules share one


@pytest.mark.parametrize("code", CODES)
def test_code_has_prefix_area_and_number(code: str) -> None:
    assert CODE.fullmatch(code)
    assert re.fullmatch(rf"TBX-({'|'.join(AREAS)})-\d{{3}}", code)


@pytest.mark.parametrize("rule", RULES)
def test_diagnose_gives_finding_its_code(rule: str) -> None:
    (finding,) = [one for one in diagnose(run_of(CASES[rule][0])).findings if one.id == rule]
    assert CODES[finding.code] == rule


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, second: str = "ACME-LR-002") -> None:
    text = RULE.replace("        needs =", f"        code = {code!r}\n        needs =", 1)
    other = RULE.replace("        needs =", f"        code = {second!r}\n        needs =", 1)
    points = {"too_high": "my_pkg.rules:TooHigh", "higher": "my_pkg.others:TooHigh"}
    install(
        folder, monkeypatch, {"tbx_callbacks.rules": points}, files={"__init__": "", "rules": text, "others": other}
    )


def test_code_of_outside_rule_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "ACME-LR-001")
    found = {one.id: one.code for one in diagnose(run_of({"train/loss": [70.0] * 60}), default_rules()).findings}
    assert (found["too_high"], found["higher"]) == ("ACME-LR-001", "ACME-LR-002")


def test_code_of_outside_rule_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, {"tbx_callbacks.rules": {"too_high": "my_pkg.rules:TooHigh"}})
    found = {one.id: one.code for one in diagnose(run_of({"train/loss": [70.0] * 60}), default_rules()).findings}
    assert found["too_high"] == ""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("LR-001", "code must have the form ACME-LR-001, got 'LR-001'"),
        ("acme-lr-001", "code must have the form"),
        ("ACME-LR-1", "code must have the form"),
        ("ACME-LR-001 ", "code must have the form"),
        ("TBX-LR-001", "code must not begin with TBX-, as bundled rules do, got 'TBX-LR-001'"),
        (7, "code must have the form ACME-LR-001, got 7"),
    ],
)
def test_code_of_outside_rule_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: object, message: str
) -> None:
    text = RULE.replace("        needs =", f"        code = {code!r}\n        needs =", 1)
    install(
        tmp_path,
        monkeypatch,
        {"tbx_callbacks.rules": {"too_high": "my_pkg.rules:TooHigh"}},
        files={"__init__": "", "rules": text},
    )
    assert set(default_rules()) == set(RULES)
    assert message in caplog.text
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_rules({"rules": {"my_pkg.rules.TooHigh": {}}})


def test_code_of_two_rules_second_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed(tmp_path, monkeypatch, "ACME-LR-001", "ACME-LR-001")
    assert set(default_rules()) == {*RULES, "too_high"}
    assert "code must be unique, got ACME-LR-001, the code of too_high" in caplog.text
