"""Tests the repeated reading of runs: formats, changes, faults."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tbx_callbacks import tags
from tbx_callbacks.monitor import Frame, View, watched_runs
from tbx_callbacks.monitor.watched_runs import Snapshot, WatchedRuns
from tbx_callbacks.report.layer_families import families
from tbx_callbacks.rules import default_rules
from tbx_callbacks.rules.required_series import TRAIN_LOSS
from tests.helpers.hostile_events import hostile_file, write_records
from tests.helpers.report_runs import trained
from tests.helpers.watched import add_lines
from tests.unit.runs.formats.test_event_files_hostile import NAME

RULES = default_rules()
STATE = {"global_step": 4, "log_history": [{"step": step, "loss": 1 / step} for step in range(1, 5)]}


def last(runs: WatchedRuns) -> Snapshot:
    *_, snapshot = runs.snapshots()
    return snapshot


@pytest.fixture
def read_paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the runs that are really read."""
    paths: list[str] = []
    read = watched_runs.read_run

    def recorded(path: str) -> object:
        paths.append(os.path.basename(path))
        return read(path)

    monkeypatch.setattr(watched_runs, "read_run", recorded)
    return paths


def test_watched_runs_of_every_format_read(tmp_path: Path) -> None:
    trained(tmp_path / "events", steps=8)
    add_lines(tmp_path / "lines" / "metrics.jsonl", range(1, 5))
    (tmp_path / "lightning").mkdir()
    (tmp_path / "lightning" / "metrics.csv").write_text("step,train_loss\n0,1.0\n1,0.5\n")
    (tmp_path / "state" / "checkpoint-4").mkdir(parents=True)
    (tmp_path / "state" / "checkpoint-4" / "trainer_state.json").write_text(json.dumps(STATE))
    snapshot = last(WatchedRuns(str(tmp_path), rules=RULES))
    assert {run.name: run.pace.step for run in snapshot.runs} == {"events": 8, "lines": 4, "lightning": 1, "state": 4}
    assert all(run.diagnosis is not None and not run.problem for run in snapshot.runs)
    single = last(WatchedRuns(str(tmp_path / "lines" / "metrics.jsonl"), rules=RULES))
    assert [run.name for run in single.runs] == ["metrics.jsonl"]


def test_watched_runs_read_only_changes(tmp_path: Path, read_paths: list[str]) -> None:
    for name in "abc":
        add_lines(tmp_path / name / "metrics.jsonl", range(1, 5))
    runs = WatchedRuns(str(tmp_path), rules=RULES)
    assert [one.reading for one in runs.snapshots()] == ["a", "b", "c", ""]
    read_paths.clear()
    last(runs)
    assert read_paths == []
    add_lines(tmp_path / "b" / "metrics.jsonl", range(5, 9))
    add_lines(tmp_path / "d" / "metrics.jsonl", range(1, 3))
    assert {run.name: run.pace.step for run in last(runs).runs} == {"a": 4, "b": 8, "c": 4, "d": 2}
    assert len(read_paths) == 2


def test_watched_runs_new_checkpoint_read(tmp_path: Path, read_paths: list[str]) -> None:
    runs = WatchedRuns(str(tmp_path), rules=RULES)
    for number, steps in enumerate((4, 8), 1):
        (tmp_path / f"checkpoint-{steps}").mkdir()
        history = [{"step": step, "loss": 1.0} for step in range(1, steps + 1)]
        state = {"global_step": steps, "log_history": history}
        (tmp_path / f"checkpoint-{steps}" / "trainer_state.json").write_text(json.dumps(state))
        assert [run.pace.step for run in last(runs).runs] == [steps]
        last(runs)
        assert len(read_paths) == number


def test_watched_runs_evaluations_beside_training_shown(tmp_path: Path, read_paths: list[str]) -> None:
    add_lines(tmp_path / "train" / "metrics.jsonl", range(1, 5), loss=1.0)
    add_lines(tmp_path / "validation" / "metrics.jsonl", range(1, 3), loss=2.0)
    runs = WatchedRuns(str(tmp_path), rules=RULES)
    training = next(run for run in last(runs).runs if run.name == "train")
    assert training.run.scalars["validation/loss"].values.tolist() == [2.0, 2.0]
    read_paths.clear()
    add_lines(tmp_path / "validation" / "metrics.jsonl", range(3, 5), loss=3.0)
    training = next(run for run in last(runs).runs if run.name == "train")
    assert training.run.scalars["validation/loss"].values.tolist() == [2.0, 2.0, 3.0, 3.0]
    assert len(read_paths) == 2  # both are judged again


def test_watched_runs_without_runs_say_why(tmp_path: Path) -> None:
    runs = WatchedRuns(str(tmp_path / "later"), rules=RULES)
    assert "does not exist" in last(runs).problem
    (tmp_path / "later").mkdir()
    assert "must hold logs of a run" in last(runs).problem
    add_lines(tmp_path / "later" / "metrics.jsonl", range(1, 3))
    snapshot = last(runs)
    assert ([run.name for run in snapshot.runs], snapshot.problem) == (["later"], "")
    shutil.rmtree(tmp_path / "later")
    assert last(runs).runs == ()


def test_watched_runs_broken_run_keeps_last_values(tmp_path: Path) -> None:
    good = add_lines(tmp_path / "good" / "metrics.jsonl", range(1, 5))
    (bad,) = trained(tmp_path / "bad", steps=8).iterdir()
    content = bad.read_bytes()
    runs = WatchedRuns(str(tmp_path), rules=RULES)
    last(runs)
    bad.write_bytes(b"no event file")
    add_lines(good, range(5, 7))
    by_name = {run.name: run for run in last(runs).runs}
    assert by_name["good"].pace.step == 6
    assert bad.name in by_name["bad"].problem
    assert by_name["bad"].pace.step == 8
    bad.write_bytes(content)
    by_name = {run.name: run for run in last(runs).runs}
    assert (by_name["bad"].problem, by_name["bad"].pace.step) == ("", 8)
    shutil.rmtree(bad.parent)
    assert [run.name for run in last(runs).runs] == ["good"]


def test_watched_runs_cut_event_file_read(tmp_path: Path) -> None:
    (file,) = trained(tmp_path / "run", steps=8).iterdir()
    os.truncate(file, file.stat().st_size - 3)
    (run,) = last(WatchedRuns(str(tmp_path), rules=RULES)).runs
    assert run.pace.step == 6
    assert "cannot be read yet" in run.notes[0]


def test_watched_runs_unreadable_run_named(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "events.out.tfevents.1.x").write_bytes(b"no event file")
    add_lines(tmp_path / "good" / "metrics.jsonl", range(1, 3))
    bad, good = last(WatchedRuns(str(tmp_path), rules=RULES)).runs
    assert "events.out.tfevents.1.x" in bad.problem
    assert (bad.diagnosis, good.problem) == (None, "")


def test_watched_runs_file_gone_while_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_lines(tmp_path / "run" / "metrics.jsonl", range(1, 5))

    def gone(path: str) -> None:
        raise FileNotFoundError(2, "No such file", "a\x1b[31m")

    monkeypatch.setattr(watched_runs, "read_run", gone)
    (run,) = last(WatchedRuns(str(tmp_path), rules=RULES)).runs
    assert run.problem.startswith("FileNotFoundError")
    assert "\x1b" not in run.problem


def test_watched_runs_failing_rule_noted(tmp_path: Path) -> None:
    class Broken:
        needs = (TRAIN_LOSS,)
        id = "broken"
        code = ""

        def __call__(self, run: object) -> object:
            raise RuntimeError("no idea")

    add_lines(tmp_path / "run" / "metrics.jsonl", range(1, 5))
    (run,) = last(WatchedRuns(str(tmp_path), rules=RULES | {"broken": Broken()})).runs  # type: ignore[dict-item]
    assert run.notes == ("rule broken failed: RuntimeError('no idea')",)
    assert run.diagnosis is not None


def test_watched_runs_names_printable(tmp_path: Path) -> None:
    add_lines(tmp_path / "b\x1b[31mad\r" / "metrics.jsonl", range(1, 3))
    (run,) = last(WatchedRuns(str(tmp_path), rules=RULES)).runs
    assert run.name == "b?[31mad?"


def test_watched_runs_hostile_files_fit_frames(tmp_path: Path) -> None:
    for seed in range(20):
        write_records(tmp_path / f"run{seed}" / NAME, hostile_file(seed))
    snapshot = last(WatchedRuns(str(tmp_path), rules=RULES))
    assert len(snapshot.runs) == 20
    for run in snapshot.runs:
        for family in [*families(run.run), tags.GRAD_NORM][:4]:
            lines = Frame(snapshot, View(run.folder, family), "runs").lines(80, 24, has_colours=True)
            assert len(lines) == 24
            assert max(line.cell_len for line in lines) <= 80
            assert all(line.plain.isprintable() for line in lines)
