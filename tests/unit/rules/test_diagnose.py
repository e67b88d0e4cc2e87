"""Tests the diagnosis of a whole run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tbx_callbacks.rules import RULES, SEVERITIES, Finding, default_rules, diagnose
from tbx_callbacks.rules.diagnose import _Reader, diagnose_folder
from tbx_callbacks.rules.divergence import Divergence
from tbx_callbacks.runs.reader import find_runs
from tbx_callbacks.runs.series import Run
from tbx_callbacks.testing import example_values
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.rule_cases import CASES, FALLING, HEALTHY, findings_of, flat, run_of, series


def test_diagnose_healthy_run_no_finding() -> None:
    assert findings_of(HEALTHY) == {}


@pytest.mark.parametrize("length", [1, 3, 8, 15])
def test_diagnose_short_noisy_runs_no_finding(length: int) -> None:
    rng = np.random.default_rng(length)
    for _ in range(50):
        scalars = {
            "train/loss": 0.7 + 0.3 * rng.standard_normal(length),
            "train/grad_norm": rng.lognormal(size=length),
            "train/learning_rate": np.linspace(1e-6, 5e-5, length),
            "eval/loss": series(0.7 + 0.02 * rng.standard_normal(2)),
        }
        assert findings_of(scalars) == {}


def test_diagnose_unjudged_rule_names_missing_metric() -> None:
    unjudged = {one.id: one for one in diagnose(run_of({"train/loss": FALLING[:5]})).unjudged}
    assert "update_ratio" in unjudged["update_too_large"].metric
    assert unjudged["update_too_large"].missing == "update ratios by layer (update_ratio/...)"
    assert unjudged["loss_spike"].missing == "20 points of the training loss, there are 5"
    assert "nonfinite" not in unjudged
    assert set(unjudged) == set(RULES) - {"nonfinite"}


def test_diagnose_findings_worst_first() -> None:
    scalars = {**CASES["nonfinite"][0], "clip/factor": flat(0.01), "train/learning_rate": flat(1e-3)}
    severities = [finding.severity for finding in diagnose(run_of(scalars)).findings]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert severities[0] == "error"
    assert severities[-1] == "note"


def test_diagnose_folder_failing_rule_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Divergence):
        def __call__(self, run: Run) -> Iterator[Finding]:
            raise RuntimeError("no")

    class NoFinding(Divergence):
        def __call__(self, run: Run) -> Iterator[Finding]:
            yield "loss too high"  # type: ignore[misc]

    for name in ("a", "b"):
        writer = TensorBoardWriter(tmp_path / name)
        for step in range(1, 60):
            writer.write(step, {"train/loss": float("nan") if step > 30 else 1.0})
        writer.close()
    rules = {**default_rules(), "broken": Broken(), "no_finding": NoFinding()}
    runs = list(diagnose_folder(tmp_path, rules=rules))
    assert [[finding.id for finding in run.diagnosis.findings][:1] for run in runs] == [["nonfinite"]] * 2
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "rule broken is left out: it failed with RuntimeError('no'); fix it, or switch it off" in messages[0]
    with pytest.raises(RuntimeError):
        diagnose(runs[0].run, rules)


def test_diagnose_folder_histograms_only_not_judged(tmp_path: Path) -> None:
    for name, value in (("scalars", 1.0), ("histograms", example_values()["example/histogram"])):
        writer = TensorBoardWriter(tmp_path / name)
        writer.write(1, {"a": value})
        writer.close()
    found = {entry.name: entry.diagnosis for entry in diagnose_folder(tmp_path)}
    assert found["histograms"].verdict.kind == "too_little"
    assert found["histograms"].verdict.judged == 0
    assert len(found) == 2


@pytest.mark.parametrize("names", [["train", "validation"], ["a_val", "b", "b/val", "a_train"]])
def test_reader_forgets_judged_runs(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        writer = TensorBoardWriter(tmp_path / name)
        writer.write(1, {"loss": 1.0})
        writer.close()
    reader = _Reader(find_runs(tmp_path), None)
    for name in reader.folders:
        run = reader.read(name)
        assert run is not None
        reader.with_role(name, run)
        reader.forget(name)
    assert set(reader.folders) == set(names)
    assert reader._runs == {}
