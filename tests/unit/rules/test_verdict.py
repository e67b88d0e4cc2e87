"""Tests the verdict of a diagnosis."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from tbx_callbacks.rules import RULES, Finding, default_rules, diagnose
from tbx_callbacks.rules.divergence import Divergence
from tbx_callbacks.rules.verdict import DECISIVE, Verdict
from tbx_callbacks.runs.series import Run
from tests.helpers.rule_cases import CASES, FALLING, HEALTHY, flat, run_of


def verdict(**scalars: object) -> Verdict:
    return diagnose(run_of({tag.replace("__", "/", 1): values for tag, values in scalars.items()})).verdict


def test_verdict_healthy_run_nothing_found() -> None:
    diagnosis = diagnose(run_of(HEALTHY))
    assert diagnosis.verdict == Verdict(
        "nothing_found",
        len(RULES) - len(diagnosis.unjudged),
        len(RULES),
        f"Nothing found; {diagnosis.verdict.judged} of {len(RULES)} rules could judge this run.",
    )


@pytest.mark.parametrize(("rule", "severity"), [("divergence", "1 error"), ("clipping_saturated", "1 warning")])
def test_verdict_error_or_warning_is_problem(rule: str, severity: str) -> None:
    found = diagnose(run_of(CASES[rule][0])).verdict
    assert found.kind == "problems"
    assert re.fullmatch(rf"{severity}; \d+ of {len(RULES)} rules could judge this run\.", found.text)


def test_verdict_note_is_no_problem() -> None:
    assert verdict(train__loss=FALLING, train__learning_rate=np.linspace(5e-5, 0, 60)).kind == "nothing_found"


def test_verdict_without_data_too_little() -> None:
    found = verdict(eval__loss=[0.69, 0.69], eval__accuracy=[0.5, 0.5])
    assert (found.kind, found.judged) == ("too_little", 1)  # the evaluation loss is finite
    assert found.text.startswith("Too little to judge: the rule nonfinite needs")
    assert "Log nonfinite" in found.remedy
    assert diagnose(Run()).verdict.kind == "too_little"


@pytest.mark.parametrize(("points", "kind"), [(1, "too_little"), (7, "too_little"), (8, "nothing_found")])
def test_verdict_of_few_points_too_little(points: int, kind: str) -> None:
    found = verdict(train__loss=np.geomspace(0.7, 0.2, points))
    assert found.kind == kind
    assert ("8 points of the training loss" in found.text) == (kind == "too_little")
    assert (found.remedy == "Log the loss more often. In a short run, log at every step.") == (kind == "too_little")


def test_verdict_short_flat_run_names_rate_and_points() -> None:
    found = verdict(train__loss=flat(0.7, 12))
    assert found.kind == "too_little"
    assert "30 points of the training loss" in found.text
    assert found.remedy.endswith(".")


def test_verdict_nan_points_do_not_count() -> None:
    unjudged = {one.id for one in diagnose(run_of({"train/loss": [*np.full(20, np.nan), 1.0]})).unjudged}
    assert {"divergence", "underfitting"} <= unjudged


def test_verdict_failed_rule_has_not_judged() -> None:
    class Broken(Divergence):
        def __call__(self, run: Run) -> Iterator[Finding]:
            raise RuntimeError

    failed: list[str] = []
    rules = {**default_rules(), "divergence": Broken()}
    found = diagnose(run_of(HEALTHY), rules, on_error=lambda name, error: failed.append(name)).verdict
    assert failed == ["divergence"]
    assert found.kind == "too_little"
    assert "divergence failed" in found.text
    assert found.judged == diagnose(run_of(HEALTHY)).verdict.judged - 1


def test_verdict_rule_switched_off_too_little() -> None:
    rules = {name: rule for name, rule in default_rules().items() if name != "nonfinite"}
    found = diagnose(run_of(HEALTHY), rules).verdict
    assert (found.kind, found.rules) == ("too_little", len(RULES) - 1)
    assert "nonfinite" in found.remedy


def test_verdict_policy_gradient_judged_by_other_rules() -> None:
    loss = 0.01 * np.random.default_rng(0).standard_normal(60)
    reward = np.linspace(0, 1, 60)
    assert verdict(train__loss=loss, train__reward=reward).kind == "too_little"
    assert verdict(train__loss=loss, train__reward=reward, train__kl=flat(0.01)).kind == "nothing_found"


def test_decisive_rules_are_known() -> None:
    assert {rule for group in DECISIVE for rule in group} <= set(RULES)


def test_verdict_losses_below_zero_need_no_more_data() -> None:
    diagnosis = diagnose(run_of({"train/loss": -FALLING[::-1], "train/learning_rate": flat(1e-3)}))
    assert diagnosis.verdict.kind == "nothing_found"
    assert diagnosis.verdict.text.endswith("Not judged by underfitting, which is for losses above zero.")
    assert diagnosis.verdict.remedy == ""
    excluded = {rule.id: (rule.missing, rule.metric) for rule in diagnosis.unjudged if not rule.applies}
    assert excluded == dict.fromkeys(("learning_rate_too_high", "plateau", "underfitting"), ("losses above zero", ""))


def test_verdict_wandering_loss_below_zero_too_little() -> None:
    found = verdict(train__loss=-1.0 + 0.1 * np.random.default_rng(0).standard_normal(60))
    assert found.kind == "too_little"
    assert "needs a loss above zero, or one that has clearly fallen" in found.text


def test_verdict_policy_gradient_asks_for_its_series() -> None:
    found = verdict(train__loss=flat(0.0), train__reward=[])
    assert found.kind == "too_little"
    assert "loss for longer" not in found.remedy
