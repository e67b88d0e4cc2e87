"""Tests that the doctor finds each planted fault with its layer and step, and nothing in healthy runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks.rules import RULES
from tbx_callbacks.rules.registry import GROUPS
from tests.helpers.confusion import judged
from tests.helpers.planted_faults import FAULTS, HEALTHY
from tests.helpers.variations import variations

# Rules that no small training can trigger; test_rules.py tests them on series.
NOT_PLANTED = {
    "restart_spike",
    "eval_loss_not_finite",  # docs/finding_runs.py trains a run with it
    "replicas_differ",  # on several ranks: tests/ranks/test_replicas.py
    "class_never_predicted",  # tests/trainers/test_doctor.py
    "input_bound",
    "slow_rank",
    "weights_shrink",
    "uneven_drift",  # a note: tests/unit/rules/test_drift.py
    "entropy_collapse",
    "kl_runaway",
    "no_reward_variance",
    "likelihood_falls",
    "completions_truncated",
}


USUAL = (
    "learning rate 100 times too high",
    "learning rate zero",
    "swapped labels in dev",
    "clipped at 1e-4",
    "NaN in the gradient of layer 1 at step 40",
    "fp16 that overflows for a while",
    "gradients fade 100 times a layer",
    "layer 2 frozen",
    "LoRA whose B is frozen",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", variations(FAULTS, *USUAL))
def test_planted_fault_found_with_layer_and_step(name: str, tmp_path: Path) -> None:
    row = judged(name, tmp_path)
    fault, findings = FAULTS[name], row.diagnosis.findings
    by_rule = {finding.id: finding for finding in findings}
    for rule, (tag, (earliest, latest)) in fault.symptoms.items():
        assert rule in by_rule, [finding.id for finding in findings]
        assert tag in by_rule[rule].tags
        assert earliest <= by_rule[rule].steps[0] <= latest
    accused = {finding.id for finding in findings if finding.severity != "note"}
    assert accused <= {*fault.symptoms, *fault.also}
    seen = {finding.id for finding in findings if not finding.tags[0].startswith("amp/")}  # text written by hand
    assert seen <= set(row.alerts)  # the live rules reported the same while it trained


@pytest.mark.thorough
@pytest.mark.slow
def test_healthy_runs_no_findings(tmp_path: Path) -> None:
    rows = [judged(name, tmp_path / str(index)) for index, name in enumerate(HEALTHY)]
    found = [(row.name, finding.id) for row in rows for finding in row.diagnosis.findings if finding.severity != "note"]
    assert len(rows) == 10
    assert "error" not in {finding.severity for row in rows for finding in row.diagnosis.findings}, found
    assert len(found) <= 1, found
    assert "error" not in {severity for row in rows for severity in row.alerts.values()}  # no temporary finding either


def test_every_rule_has_planted_fault() -> None:
    assert {rule for fault in FAULTS.values() for rule in fault.symptoms} == set(RULES) - NOT_PLANTED - set(
        GROUPS["wiring"]
    )
