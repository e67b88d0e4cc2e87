"""Tests `tbx-callbacks show` and `around`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.commands import run
from tests.helpers.report_runs import trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("runs")
    trained(top / "a", spike=60)
    trained(top / "b", steps=20)
    return top


def test_show_text_and_json_agree(folder: Path) -> None:
    text, fields = run("show", str(folder / "a")).stdout, json.loads(run("show", str(folder / "a"), "--json").stdout)
    assert text.startswith(f"run a: {fields['verdict']['text']}")
    assert all(finding["means"][:100] in text for finding in fields["findings"])
    assert len(text) <= 2400


def test_around_text_has_marked_step(folder: Path) -> None:
    done = run("around", str(folder / "a"), "--step", "60", "--window", "1")
    assert [line[:5] for line in done.stdout.splitlines()[-3:]] == ["  58:", "> 60:", "  62:"]


@pytest.mark.parametrize("arguments", [["show"], ["around", "--step", "5"]], ids=str)
def test_show_folder_of_runs_error_names_them(folder: Path, arguments: list[str]) -> None:
    done = run(arguments[0], str(folder), *arguments[1:])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "RUN must be one run, got 2" in done.stderr


def test_around_impossible_step_error_named(folder: Path) -> None:
    done = run("around", str(folder / "a"), "--step", "999")
    assert done.returncode == 2
    assert "its steps are 2 to 120" in done.stderr


def test_show_tells_how_run_ended(tmp_path: Path) -> None:
    for succeeded, status, words in ((False, "failed", "run x: The training failed"), (True, "succeeded", ", ended")):
        folder = str(trained(tmp_path / status / "x", succeeded=succeeded))
        assert words in run("show", folder).stdout
        assert json.loads(run("show", folder, "--json").stdout)["status"] == status


def test_show_many_runs_error_counts_rest(tmp_path: Path) -> None:
    for number in range(1, 13):
        trained(tmp_path / f"run{number}", steps=4)
    words = run("show", str(tmp_path)).stderr
    names = ", ".join(str(tmp_path / f"run{number}") for number in range(1, 6))
    assert "RUN must be one run, got 12 below" in words
    assert f"{names} and 7 more; name one of them" in words
