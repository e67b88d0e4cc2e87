"""Trains three runs of the diagnosis benchmark, one with each trainer, and scores them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.diagnosis_runs.cases import all_cases
from benchmarks.diagnosis_runs.outcomes import read_outcomes
from benchmarks.diagnosis_runs.scoring import score
from benchmarks.diagnosis_runs.training import read_record, train_all

NAMES = ("bert_head_replaced", "convnet_dead_relus", "mlp_cancer_sgd")


@pytest.mark.thorough
@pytest.mark.slow
def test_three_runs_train_and_score(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="two of the three runs train on the data sets of scikit-learn")
    cases = [all_cases()[name] for name in NAMES]
    train_all(cases, tmp_path, seed=0)
    records = [read_record(tmp_path, name) for name in NAMES]
    assert [record and record.failed for record in records] == [None] * 3
    outcomes = list(read_outcomes(cases, tmp_path))
    assert [outcome.state for outcome in outcomes] == ["judged"] * 3
    assert [outcome.verdict("doctor") for outcome in outcomes] == ["named", "named", None]
    assert [outcome.verdict("live") for outcome in outcomes] == ["named", "named", None]
    for source in ("doctor", "live"):
        found = score(outcomes, source)
        assert (found.faults, found.named, found.healthy, found.alarmed) == (2, 2, 1, 0)


@pytest.mark.slow
def test_run_that_fails_is_left_out(tmp_path: Path) -> None:
    case = all_cases()["mlp_cancer_sgd"]

    def fails(place: object) -> None:
        raise ValueError("no data")

    broken = type(case)(case.name, case.kind, fails, is_fault=False)  # type: ignore[arg-type]
    train_all([broken], tmp_path, seed=0)
    (outcome,) = read_outcomes([broken], tmp_path)
    assert outcome.state == "failed"
    assert outcome.why.strip().endswith("ValueError: no data")
    assert score([outcome], "doctor").healthy == 0
