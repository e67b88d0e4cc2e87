"""Tests `tbx-callbacks doctor` as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from tbx_callbacks.rules import RULES
from tbx_callbacks.testing import example_values
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.commands import run, run_process
from tests.helpers.outside_package import install
from tests.helpers.report_runs import trained

HEALTHY = np.geomspace(0.7, 0.1, 60)
RISES = np.concatenate([HEALTHY[:15], np.linspace(HEALTHY[15], 2, 45)])


def logged(folder: Path, **scalars: Any) -> Path:
    writer = TensorBoardWriter(folder)
    for index in range(max(map(len, scalars.values()))):
        values = {tag: float(numbers[index]) for tag, numbers in scalars.items() if index < len(numbers)}
        writer.write(10 * (index + 1), values)
    writer.close()
    return folder


def test_doctor_healthy_run_code_0(tmp_path: Path) -> None:
    done = run_process("doctor", str(logged(tmp_path / "run", **{"train/loss": HEALTHY})))
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": 1 scalar tag, 600 steps" in done.stdout
    assert re.search(r"Nothing found; \d+ of \d+ rules could judge this run\.", done.stdout)
    assert re.search(r"^  \d+ rules lacked data; metrics that would write it:$", done.stdout, re.MULTILINE)
    assert "    update_ratio: update_too_large, update_too_small" in done.stdout
    assert len(done.stdout.splitlines()) < 22  # a line a metric
    assert done.stderr == ""


def test_doctor_folder_of_runs_findings_worst_first(tmp_path: Path) -> None:
    logged(tmp_path / "good", **{"train/loss": HEALTHY})
    logged(
        tmp_path / "bad" / "seed_1",
        **{"train/loss": [*HEALTHY, *np.full(20, 0.9)], "clip/factor": np.full(60, 0.001)},
    )
    done = run("doctor", str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.index("bad/seed_1") < done.stdout.index("error") < done.stdout.index("warning")
    assert done.stdout.index("warning") < done.stdout.index("good") < done.stdout.index("Nothing found; ")
    assert "divergence, step" in done.stdout
    assert "try: Go back to a checkpoint" in done.stdout
    assert "arXiv:2006.04884" in done.stdout


def test_doctor_json_holds_findings(tmp_path: Path) -> None:
    logged(tmp_path, **{"train/loss": [*HEALTHY[:40], float("nan")]})
    done = run("doctor", str(tmp_path), "--json")
    assert done.returncode == 1
    printed = json.loads(done.stdout)
    (one,) = printed["runs"]
    assert (one["verdict"]["kind"], one["verdict"]["text"][:9]) == ("problems", "1 error; ")
    assert (one["run"], one["last_step"], one["unread"]) == (".", 410, {})
    (finding,) = one["findings"]
    assert (finding["id"], finding["severity"], finding["steps"]) == ("nonfinite", "error", [410])
    assert finding["code"] == "TBX-NUM-001"
    assert set(finding) == {"id", "code", "severity", "tags", "steps", "numbers", "means", "advice", "source"}
    assert {rule["id"] for rule in one["unjudged"]} < set(RULES)


def test_doctor_too_little_is_no_praise(tmp_path: Path) -> None:
    folder = str(logged(tmp_path / "run", **{"train/loss": HEALTHY[:2]}))
    done = run("doctor", folder)
    assert done.returncode == 0
    printed = " ".join(done.stdout.split())
    assert "Too little to judge: the rule divergence needs" in printed
    assert "Log the loss more often." in printed
    assert "Nothing found" not in printed
    (one,) = json.loads(run("doctor", folder, "--json").stdout)["runs"]
    assert one["verdict"]["kind"] == "too_little"
    assert one["verdict"]["remedy"]


@pytest.mark.parametrize(
    ("scalars", "options", "code"),
    [
        ({"train/loss": HEALTHY}, ["--fail-on", "warning", "--fail-on", "unjudged"], 0),
        ({"train/loss": HEALTHY[:2]}, [], 0),
        ({"train/loss": HEALTHY[:2]}, ["--fail-on", "warning"], 0),
        ({"train/loss": HEALTHY[:2]}, ["--fail-on", "unjudged"], 3),
        ({"train/loss": HEALTHY, "eval/loss": RISES}, [], 0),
        ({"train/loss": HEALTHY, "eval/loss": RISES}, ["--fail-on", "warning"], 1),
        ({"train/loss": [*HEALTHY, float("nan")]}, ["--fail-on", "unjudged"], 1),
        ({"train/loss": HEALTHY[:2]}, ["--fail-on", "warning,unjudged"], 3),
        ({"train/loss": HEALTHY, "eval/loss": RISES}, ["--fail-on", "unjudged, warning"], 1),
        ({"train/loss": HEALTHY}, ["--fail-on", "note"], 2),
        ({"train/loss": HEALTHY}, ["--fail-on", "warning,"], 2),
        ({"train/loss": HEALTHY}, ["--fail-on", "Warning"], 2),
    ],
)
def test_doctor_exit_code_by_verdict(tmp_path: Path, scalars: Any, options: list[str], code: int) -> None:
    folder = str(logged(tmp_path / "run", **scalars))
    assert run("doctor", folder, *options).returncode == code
    if code != 2:
        assert run("doctor", folder, *options, "--json").returncode == code


def test_doctor_rules_file_changes_thresholds(tmp_path: Path) -> None:
    folder = logged(tmp_path / "run", **{"train/loss": [*HEALTHY, *np.full(20, 0.9)]})
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  divergence: {ratio: 100}\n")
    assert run("doctor", str(folder), "--rules", str(rules)).returncode == 0
    rules.write_text("rules:\n  divergense: {}\n")
    done = run("doctor", str(folder), "--rules", str(rules))
    assert done.returncode == 2
    assert "rules.yaml: rules must name known rules, got 'divergense'; did you mean 'divergence'?" in done.stderr


def test_doctor_outside_rules_entry_point_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "packages", monkeypatch, {"tbx_callbacks.rules": {"too_high": "my_pkg.rules:TooHigh"}})
    folder = logged(tmp_path / "run", **{"train/loss": np.geomspace(70, 10, 60)})
    done = run("doctor", str(folder))
    assert done.returncode == 1
    assert "too_high, step 600" in done.stdout
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: {too_high: {threshold: 20}, my_pkg.rules.TooHigh: {threshold: 9}}\n")
    printed = run("doctor", str(folder), "--rules", str(rules)).stdout
    assert "my_pkg.rules.TooHigh, step 600" in printed
    assert "too_high, step" not in printed
    rules.write_text("rules: {my_pkg.rules.TooHih: {}}\n")
    done = run("doctor", str(folder), "--rules", str(rules))
    assert done.returncode == 2
    assert "did you mean 'TooHigh'?" in done.stderr


def test_doctor_hparams_folder_is_no_run(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step, loss in enumerate(HEALTHY, 1):
            writer.add_scalar("train/loss", loss, step)
        writer.add_hparams({"lr": 1e-3}, {}, run_name="hparams")
    done = run("doctor", str(tmp_path), "--json")
    assert [one["run"] for one in json.loads(done.stdout)["runs"]] == ["run"]


def test_doctor_unreadable_folder_code_2(tmp_path: Path) -> None:
    missing = run("doctor", str(tmp_path / "nothing"))
    assert missing.returncode == 2
    assert "LOGDIR must be a folder with runs" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert run("doctor", str(tmp_path)).returncode == 2
    with SummaryWriter(str(tmp_path / "texts")) as writer:
        writer.add_text("note", "no number")
    done = run("doctor", str(tmp_path))
    assert done.returncode == 2
    assert "a run must hold scalars" in done.stderr


def test_doctor_cut_file_named(tmp_path: Path) -> None:
    folder = logged(tmp_path / "run", **{"train/loss": HEALTHY})
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    done = run("doctor", str(folder))
    assert done.returncode == 0
    assert f"bytes at the end of {file.name} are truncated or damaged" in done.stdout


def test_doctor_control_characters_escaped(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step, loss in enumerate(np.full(60, 0.7), 1):
            writer.add_scalar("train/loss", loss, step)
            writer.add_scalar("activations/[red]\x1b[31mx/zero_share", 1.0, step)
    done = run("doctor", str(tmp_path))
    assert "dead_activations" in done.stdout
    assert "\x1b" not in done.stdout
    assert "activations/[red]?[31mx/zero_share" in done.stdout


def test_doctor_histograms_only_too_little(tmp_path: Path) -> None:
    logged(tmp_path / "scalars", **{"train/loss": HEALTHY})
    writer = TensorBoardWriter(tmp_path / "histograms")
    writer.write(1, {"a": example_values()["example/histogram"]})
    writer.close()
    done = run("doctor", str(tmp_path), "--json")
    assert [one["run"] for one in json.loads(done.stdout)["runs"]] == ["histograms", "scalars"]
    for folder in (tmp_path, tmp_path / "histograms"):
        assert run("doctor", str(folder)).returncode == 0
        assert "Too little to judge" in run("doctor", str(folder)).stdout
        assert run("doctor", str(folder), "--fail-on", "unjudged").returncode == 3


def test_doctor_fail_on_unknown_kind_named(tmp_path: Path) -> None:
    done = run("doctor", str(tmp_path), "--fail-on", "warning,unjugded")
    assert done.returncode == 2
    assert "must be one or more of error, warning, unjudged, got 'unjugded'; did you mean 'unjudged'?" in done.stderr


def test_doctor_short_run_learned_nothing_too_little(tmp_path: Path) -> None:
    scalars = {"train/loss": np.full(15, 0.69), "train/learning_rate": np.linspace(1e-4, 0, 15)}
    folder = str(logged(tmp_path / "run", **scalars))
    printed = " ".join(run("doctor", folder).stdout.split())
    assert "note TBX-LOSS-003 underfitting" in printed
    assert "Too little to judge: the model has learned next to nothing, in a short run." in printed
    assert "Nothing" not in printed
    assert run("doctor", folder, "--fail-on", "unjudged").returncode == 3


def test_doctor_tells_how_runs_ended(tmp_path: Path) -> None:
    trained(tmp_path / "bad", succeeded=False)
    trained(tmp_path / "ok", succeeded=True)
    trained(tmp_path / "open")
    text = run("doctor", str(tmp_path)).stdout
    assert text.count("The training failed, or was interrupted, after step 120.") == 1
    assert text.count("120 steps, ended") == 1
    runs = json.loads(run("doctor", str(tmp_path), "--json").stdout)["runs"]
    assert {one["run"]: one["status"] for one in runs} == {"bad": "failed", "ok": "succeeded", "open": None}


def test_doctor_unreadable_run_counts_as_unjudged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged(tmp_path / "good", **{"train/loss": HEALTHY})
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "metrics.csv").write_text("time,loss\n1,0.5\n")
    assert run("doctor", str(tmp_path)).returncode == 0
    assert "run k is left out: a log must have a column step or epoch" in caplog.text
    assert run("doctor", str(tmp_path), "--fail-on", "unjudged").returncode == 3


def test_doctor_damaged_checkpoint_names_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "trainer_state.json").write_text("{")
    assert run("doctor", str(tmp_path)).returncode == 2
    assert f"run {tmp_path} is left out: a run must have a trainer_state.json that can be read" in caplog.text
