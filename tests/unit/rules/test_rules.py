"""Tests rules as pure functions from series to findings."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tbx_callbacks.rules import RULES, SEVERITIES, default_rules, diagnose
from tbx_callbacks.rules.wiring import RULES as WIRING_RULES
from tbx_callbacks.runs.series import Run, Series, scalar_points, series_of
from tests.helpers.rule_cases import CASES, FALLING, N, findings_of, flat, run_of, series


@pytest.mark.parametrize("rule", RULES)
def test_rule_finding_has_evidence(rule: str) -> None:
    scalars, tag, step = CASES[rule]
    finding = findings_of(scalars)[rule]
    assert tag in finding.tags
    assert finding.steps[0] == step
    assert finding.severity in SEVERITIES
    assert finding.means.endswith(".")
    assert finding.advice.endswith(".")
    assert finding.source == RULES[rule].source
    assert all(np.isfinite(number) for number in finding.numbers.values())


IMPERATIVES = re.compile(
    "(Add|Check|Compare|Create|Decay|Divide|Do|Find|Go|Keep|Let|Log|Look|Lower|Pass|Raise|Read|Train|Use|Warm|Weight|Wrap)"
)


@pytest.mark.parametrize("rule", RULES)
def test_rule_words_say_seen_meaning_first_remedy(rule: str) -> None:
    finding = findings_of(CASES[rule][0])[rule]
    sentences = re.split(r"(?<=[a-z)%0-9])[.:] (?=[A-Za-z])", finding.means)
    assert len(sentences) >= 2, finding.means  # what was seen, and what it means
    assert re.search(r"\d", finding.means), finding.means
    first = re.split(r"(?<=[a-z)%0-9])\. (?=[A-Z])", finding.advice)[0]
    assert IMPERATIVES.fullmatch(first.partition(" ")[0]), first
    assert len(first.split()) <= 18, first
    assert " or " not in first, first  # one thing to try first
    assert not re.search(r"\b(will|going to)\b", finding.means), finding.means  # an audit, no forecast


@pytest.mark.parametrize("rule", RULES)
def test_rule_without_tags_or_points_silent(rule: str) -> None:
    scalars, _, _ = CASES[rule]
    assert list(default_rules()[rule](Run())) == []
    whole = run_of(scalars)
    short = {tag: Series(one.steps[:2], one.values[:2], one.wall_times[:2]) for tag, one in whole.scalars.items()}
    if rule != "nonfinite" and rule not in WIRING_RULES:  # a single number suffices
        assert list(default_rules()[rule](Run(short))) == []


def test_rules_growing_run_finding_in_time() -> None:
    loss = scalar_points()
    printed = {}
    for index, value in enumerate(np.append(FALLING, flat(0.9, 20)), 1):
        loss.add(10 * index, float(value), 0.0)
        for finding in diagnose(Run({"train/loss": series_of(loss)})).findings:
            printed.setdefault(finding.id, index)
    assert N < printed["divergence"] <= N + 10


@pytest.mark.parametrize("low", [0.124, 0.5, 0.9])
def test_rate_no_cause_after_low_loss(low: float) -> None:
    """Sorted data: the loss of the first class falls, and the next classes are new."""
    first = [1.97, 1.79, 2.65, 2.58, 2.48, 2.59, low, 5.25]
    rates = {"lr/SGD/pg1": flat(0.05, 25), "weight_norm/0": np.linspace(1, 3.3, 25)}
    assert "learning_rate_too_high" not in findings_of({"train/loss": [*first, *flat(3.4, 17)], **rates})


def test_rate_is_cause_without_low_loss() -> None:
    first = [1.97, 1.79, 2.65, 2.58, 2.48, 2.59, 1.7, 5.25]
    rates = {"lr/SGD/pg1": flat(0.05, 25), "weight_norm/0": np.linspace(1, 3.3, 25)}
    assert "learning_rate_too_high" in findings_of({"train/loss": [*first, *flat(3.4, 17)], **rates})


def test_learning_rate_growth_from_zero_is_none() -> None:
    def found(every: int, **norms: np.ndarray) -> str:
        tags = {"lr/AdamW/pg1": flat(1e-2, 40), "train/loss": np.linspace(1.1, 1.07, 40)}
        tags |= {f"weight_norm/{name}": values for name, values in norms.items()}
        findings = findings_of({tag: series(values, every=every) for tag, values in tags.items()})
        return findings["learning_rate_too_high"].means if "learning_rate_too_high" in findings else ""

    from_zero = np.minimum(np.arange(1, 41), 12) * 0.017
    assert found(1, head=from_zero) == ""
    assert found(10, head=from_zero, body=flat(3.0, 40)) == ""
    assert "the weight norms of 1 layer grew" in found(1, head=np.minimum(1 + 0.1 * np.arange(40), 2.5))


STUCK = [6.04, 3.51, 3.0, 2.9, 2.89, 2.88, 2.88, 2.88, 2.86, 2.86]


@pytest.mark.parametrize(
    ("losses", "sizes", "is_found"),
    [
        (STUCK, [42.0, 60.0, 124.0], True),
        (STUCK, [0.5, 60.0, 124.0], True),
        (STUCK, [0.5, 0.8, 124.0], False),  # one weight that is nearly zero
        (STUCK, [0.5, 0.8, 2.0], False),
        (np.geomspace(6, 0.01, 10), [42.0, 60.0, 124.0], False),
        (STUCK, [], False),
    ],
)
def test_rate_too_high_for_adapters(losses: list[float], sizes: list[float], is_found: bool) -> None:
    updates = {f"lora/update/layers.{n}.q_proj": [size / 2, size] for n, size in enumerate(sizes)}
    found = findings_of({"train/loss": losses, "lr/AdamW/pg1": flat(0.1, 10), **updates})
    assert ("learning_rate_too_high" in found) is is_found
    if is_found:
        finding = found["learning_rate_too_high"]
        assert {tag for tag in finding.tags if "lora" in tag} == {
            tag for tag, size in zip(updates, sizes, strict=True) if size > 10
        }
        assert "times as large as the frozen weights" in finding.means
