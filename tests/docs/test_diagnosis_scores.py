"""Tests the scores of the diagnosis benchmark on outcomes made by hand, and the list of its runs."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.diagnosis_runs.cases import Case, Facts, Place, all_cases
from benchmarks.diagnosis_runs.kinds import _FAULTS, _HEALTHY, HALVES, half_of
from benchmarks.diagnosis_runs.scoring import Outcome, Report, alarms_by_rule, missed, score
from benchmarks.diagnosis_runs.tables import all_tables, misses_table, scores_table
from tests.helpers.runs import ROOT

CASES = all_cases()
PATTERNS = {
    "zero_grad forgotten",
    "model.train() forgotten after an evaluation",
    "dropout active in evaluation",
    "softmax before cross entropy",
    "padding attended",
    "loss summed over micro-batches",
    "optimizer.step() forgotten",
    "everything frozen but LayerNorm",
    "a head replaced after the optimizer was made",
    "the encoder under no_grad",
    "a scheduler stepped per batch (meant per epoch)",
    "the loss with the wrong sign",
    "every label -100",
    "labels shifted by one row",
    "data sorted by label",
    "the same rows in every batch",
    "weights initialised again in mid-training",
    "bf16 weights with a tiny rate",
    "weight decay 10",
    "95 % of one class",
    "a rate hidden by clipping",
    "dev inside train",
}


def train(place: Place) -> Facts:
    """A run that is not trained."""
    raise AssertionError(place)


def fault(name: str = "fault", **changes: Any) -> Case:
    case = Case(
        name,
        "rate too high",
        train,
        is_fault=True,
        wants=frozenset({"learning_rate_too_high"}),
        also_ok=frozenset({"underfitting", "no_warmup"}),
    )
    return replace(case, **changes)


def healthy(name: str = "healthy", *ok: str) -> Case:
    return Case(name, "tabular data", train, is_fault=False, also_ok=frozenset(ok))


def error(rule: str, **where: Any) -> Report:
    return Report(rule, "error", **where)


def warning(rule: str, **where: Any) -> Report:
    return Report(rule, "warning", **where)


def note(rule: str, **where: Any) -> Report:
    return Report(rule, "note", **where)


def outcomes() -> list[Outcome]:
    """Five faults and three healthy runs, of which one fault and one healthy run are not judged.

    Doctor: 1 named, 1 noticed, 1 misleading, 1 silent. True alarms: 2 + 1. False alarms: 1 on a named fault, 1 that
    misleads, 1 on a healthy run. Live: the first two faults only.
    """
    named = (error("learning_rate_too_high"), warning("underfitting"), warning("overfitting"))
    return [
        Outcome(fault("a"), doctor=named, live=(note("learning_rate_too_high"),)),
        Outcome(fault("b"), doctor=(warning("underfitting"), note("plateau")), live=()),
        Outcome(fault("c"), doctor=(warning("overfitting"),)),
        Outcome(fault("d", wants=frozenset()), doctor=(note("underfitting"),)),
        Outcome(fault("e"), state="not as planned", doctor=(error("nonfinite"),)),
        Outcome(healthy("f"), doctor=(warning("plateau"), note("overfitting")), live=()),
        Outcome(healthy("g", "no_warmup"), doctor=(warning("no_warmup"),), live=(error("divergence"),)),
        Outcome(healthy("h"), state="failed", doctor=(error("nonfinite"),)),
    ]


@pytest.mark.parametrize(
    ("doctor", "verdict"),
    [
        ([error("learning_rate_too_high")], "named"),
        ([note("learning_rate_too_high"), error("overfitting")], "named"),
        ([warning("underfitting")], "noticed"),
        ([warning("underfitting"), error("overfitting")], "noticed"),
        ([note("underfitting")], "silent"),
        ([note("underfitting"), warning("overfitting")], "misleading"),
        ([], "silent"),
    ],
)
def test_verdict_by_findings(doctor: list[Report], verdict: str) -> None:
    assert Outcome(fault(), doctor=tuple(doctor)).verdict("doctor") == verdict


def test_verdict_absent_source_or_healthy_none() -> None:
    assert Outcome(fault()).verdict("live") is None
    assert Outcome(healthy(), doctor=(error("nonfinite"),)).verdict("doctor") is None


@pytest.mark.parametrize(
    ("where", "verdict"),
    [
        ({"tags": ("weight_norm/encoder.layer.0",), "steps": (40, 44)}, "named"),
        ({"tags": ("weight_norm/head", "weight_norm/encoder.layer.0"), "steps": (50,)}, "named"),
        ({"tags": ("weight_norm/head",), "steps": (40,)}, "noticed"),
        ({"tags": ("weight_norm/encoder.layer.0",), "steps": (39, 45)}, "noticed"),
        ({"tags": ("weight_norm/encoder.layer.0",), "steps": (51,)}, "noticed"),
        ({}, "named"),  # the alert of a check before the training has neither
    ],
)
def test_verdict_needs_layer_and_step(where: dict[str, Any], verdict: str) -> None:
    case = fault(tag=r"layer\.0", steps=(40, 50))
    assert Outcome(case, doctor=(error("learning_rate_too_high", **where),)).verdict("doctor") == verdict


def test_scores_of_doctor_counted_by_hand() -> None:
    found = score(outcomes(), "doctor")
    assert (found.faults, found.nameable, found.named, found.noticed) == (4, 3, 1, 1)
    assert (found.true_alarms, found.false_alarms) == (3, 3)
    assert (found.healthy, found.alarmed) == (2, 1)
    assert (found.recall, found.causes, found.precision) == (2 / 4, 1 / 4, 3 / 6)


def test_scores_live_leave_out_other_runs() -> None:
    found = score(outcomes(), "live")
    assert (found.faults, found.named, found.noticed) == (2, 1, 0)
    assert (found.true_alarms, found.false_alarms, found.healthy, found.alarmed) == (0, 1, 2, 1)
    assert (found.recall, found.precision) == (0.5, 0.0)


def test_scores_without_runs_are_not_numbers() -> None:
    found = score([], "doctor")
    assert all(map(math.isnan, (found.recall, found.causes, found.precision)))


def test_missed_and_alarms_listed_by_name() -> None:
    runs = outcomes()
    assert [(each.case.name, verdict) for each, verdict in missed(runs, "doctor")] == [
        ("b", "noticed"),
        ("c", "misleading"),
        ("d", "silent"),
    ]
    assert alarms_by_rule(runs, "doctor", on_faults=False) == {"plateau": ["f"]}
    assert alarms_by_rule(runs, "doctor", on_faults=True) == {"overfitting": ["a", "c"]}
    assert alarms_by_rule(runs, "live", on_faults=False) == {"divergence": ["g"]}


def test_tables_show_the_scores() -> None:
    runs = outcomes()
    assert "| development | doctor | 4 | 2 (50 %) | 1 (25 %) | 3 of 6 (50 %) | 1 of 2 |" in scores_table(runs)
    assert "| held-out | doctor | 0 | 0 (–) | 0 (–) | 0 of 0 (–) | 0 of 0 |" in scores_table(runs)  # noqa: RUF001
    assert "| d | development | silent | not there | no rule names it |" in misses_table(runs)
    assert "| a |" not in misses_table(runs)
    assert all(all_tables(runs))


def test_each_kind_is_in_one_half() -> None:
    for kinds in (_FAULTS, _HEALTHY):
        assert not kinds["development"] & kinds["held-out"]
    used = {(case.kind, case.is_fault) for case in CASES.values()}
    assert used == {
        (kind, halves is _FAULTS) for halves in (_FAULTS, _HEALTHY) for kind in frozenset().union(*halves.values())
    }
    with pytest.raises(ValueError, match=r"a fault must be listed in kinds\.py, got 'tabular data'"):
        half_of("tabular data", is_fault=True)


def test_benchmark_has_enough_runs_and_patterns() -> None:
    faults = [case for case in CASES.values() if case.is_fault]
    assert len(faults) >= 60
    assert len(CASES) - len(faults) >= 40
    assert sorted(case.pattern for case in faults if case.pattern) == sorted(PATTERNS)
    assert all(case.train.__doc__ for case in CASES.values())


@pytest.mark.parametrize("half", ["development", "held-out"])
def test_halves_have_similar_numbers_of_runs(half: str) -> None:
    for is_fault in (True, False):
        runs = [case for case in CASES.values() if case.is_fault == is_fault]
        assert 0.4 <= sum(case.half == half for case in runs) / len(runs) <= 0.6


PAGE = (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8").partition("\n## Benchmark\n")[2]


def test_page_has_all_patterns_and_runs() -> None:
    named = {name for name in re.findall(r"^\| ([^|]+) \| (?:named|noticed|misleading|silent)", PAGE, re.MULTILINE)}
    assert named & PATTERNS == PATTERNS
    healthy_runs = sum(not case.is_fault for case in CASES.values())
    assert f"trains {len(CASES) - healthy_runs} faulty and {healthy_runs} healthy runs" in PAGE
    tables = re.findall(r"^\| (development|held-out) \| doctor \| (\d+) \|.*\| \d+ of (\d+) \|$", PAGE, re.MULTILINE)
    expected = [
        (
            half,
            *(
                str(sum(c.half == half and c.is_fault == is_fault for c in CASES.values()))
                for is_fault in (True, False)
            ),
        )
        for half in HALVES
    ]
    assert tables[:2] == expected


def test_page_misses_are_faults_of_benchmark() -> None:
    rows = re.findall(r"^\| (\w+) \| (development|held-out) \| ([\w ]+) \| ([\w ]+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 5
    for name, half, _, _, expected in rows:
        assert CASES[name].half == half
        assert set(re.findall(r"`(\w+)`", expected)) == CASES[name].wants
