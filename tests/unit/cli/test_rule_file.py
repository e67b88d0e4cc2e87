"""Tests acknowledged findings in the file of a project, as a user of the commands sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.commands import run
from tests.unit.cli.test_doctor import HEALTHY, RISES, logged

ENTRY = "- {rule: TBX-EVAL-001, tag: eval/*, run: 'a*', reason: two epochs are wanted}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        logged(tmp_path / "runs" / name, **{"train/loss": HEALTHY, "eval/loss": RISES[::10]})
    return tmp_path


def write(folder: Path, entries: str, name: str = "tbx_callbacks.yaml") -> None:
    (folder / name).write_text("rules:\n  acknowledged:\n    " + entries.replace("\n", "\n    "))


def doctor(folder: Path, *options: str) -> Any:
    return run("doctor", "runs", "--fail-on", "warning", *options, cwd=folder)


def test_doctor_acknowledged_finding_listed_apart(folder: Path) -> None:
    assert doctor(folder).returncode == 1
    write(folder, ENTRY)
    done = doctor(folder)
    assert done.returncode == 1  # run b
    a, b = done.stdout.split("b: 2 scalar tags")
    assert "acknowledged: warning TBX-EVAL-001 overfitting (step" in a
    assert "eval/loss): two epochs are wanted" in a
    assert "try:" not in a
    assert "Nothing else found; " in a
    assert "1 finding acknowledged." in a
    assert "warning TBX-EVAL-001 overfitting, step" in b
    assert "rules: tbx_callbacks.yaml" in done.stdout
    assert "not found" not in done.stdout
    write(folder, ENTRY.replace(", run: 'a*'", ""))
    assert doctor(folder).returncode == 0


def test_doctor_json_holds_acknowledged_findings(folder: Path) -> None:
    write(folder, ENTRY + "- {rule: no_warmup, reason: long ago}\n")
    printed = json.loads(doctor(folder, "--json").stdout)
    a, b = printed["runs"]
    (known,) = a["acknowledged"]
    assert (known["id"], known["code"], known["reason"]) == ("overfitting", "TBX-EVAL-001", "two epochs are wanted")
    assert (a["findings"], b["acknowledged"]) == ([], [])
    assert [finding["id"] for finding in b["findings"]] == ["overfitting"]
    assert printed["acknowledged_not_found"] == [{"rule": "no_warmup", "tag": "", "run": "", "reason": "long ago"}]
    assert printed["rules_file"] == "tbx_callbacks.yaml"


def test_doctor_unused_acknowledgement_told_at_end(folder: Path) -> None:
    write(folder, ENTRY + "- {rule: no_warmup, run: gone, reason: long ago}\n")
    done = doctor(folder)
    assert "acknowledged but not found: no_warmup (run: gone): long ago" in done.stdout.split("b: 2 scalar tags")[1]


def test_doctor_given_file_replaces_project_file(folder: Path) -> None:
    write(folder, ENTRY.replace(", run: 'a*'", ""))
    (folder / "other.yaml").write_text("rules: {overfitting: {ratio: 1.2}}\n")
    done = doctor(folder, "--rules", "other.yaml")
    assert done.returncode == 1
    assert "rules: other.yaml" in done.stdout
    assert run("doctor", "../runs", "--fail-on", "warning", cwd=_made(folder / "elsewhere")).returncode == 1


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("- no_warmup", "acknowledged[0] must be a mapping with the keys rule and reason, got 'no_warmup'"),
        ("- {rule: no_warmup}", "acknowledged[0] must have a reason, got none for 'no_warmup'"),
        ("- {rule: no_warmup, reason: ' '}", "acknowledged[0] must have a reason"),
        ("- {reason: x}", "acknowledged[0] must have a rule"),
        ("- {rule: no_warmpu, reason: x}", "got 'no_warmpu'; did you mean 'no_warmup'?"),
        ("- {rule: TBX-LR-02, reason: x}", "got 'TBX-LR-02'; did you mean 'TBX-LR-002'?"),
        ("- {rule: TBX-LR-999, reason: x}", "must be the name or the code of a known rule, got 'TBX-LR-999'"),
        ("- {rule: no_warmup, reason: x, tags: a}", "got 'tags'; did you mean 'tag'?"),
        ("- {rule: no_warmup, reason: x, run: .}", "acknowledged[0].run must be a glob such as seed_*, got '.'"),
        ("- {rule: no_warmup, reason: 3}", "acknowledged[0].reason must be a valid string, got 3"),
        ("- {rule: no_warmup, reason: x}\n- 3", "acknowledged[1] must be a mapping"),
        ("{rule: no_warmup, reason: x}", "rules.acknowledged must be a list of findings"),
        ("no_warmup", "rules.acknowledged must be a list of findings, got 'no_warmup'"),
    ],
)
def test_acknowledgement_mistake_names_place_and_nearest(folder: Path, entries: str, message: str) -> None:
    write(folder, entries)
    for command in (("doctor", "runs"), ("report", "runs", "-o", "page.html")):
        done = run(*command, cwd=folder)
        assert done.returncode == 2
        assert message in done.stderr
        assert "tbx_callbacks.yaml: rules" in done.stderr
    assert not (folder / "page.html").exists()


def test_project_file_that_cannot_be_read_refused(folder: Path) -> None:
    (folder / "tbx_callbacks.yaml").symlink_to(folder / "gone.yaml")
    done = doctor(folder)
    assert done.returncode == 2
    assert "tbx_callbacks.yaml: a file of rules must be a readable UTF-8 file" in done.stderr


def test_report_shows_acknowledged_findings(folder: Path) -> None:
    write(folder, ENTRY + "- {rule: no_warmup, reason: '<b>long ago'}\n")
    assert run("report", "runs", "-o", "page.html", cwd=folder).returncode == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page.count("<b>Acknowledged:</b> two epochs are wanted") == 1
    assert page.count('<span class="code">TBX-EVAL-001</span>') == 1  # of run b
    assert "Acknowledged but not found: no_warmup: &lt;b&gt;long ago" in page


def test_acknowledged_entries_in_schema() -> None:
    schema = json.loads(run("schema").stdout)
    text = json.dumps(schema)
    assert '"required": ["rule", "reason"]' in text
