"""Tests what `tbx-callbacks compare` prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.helpers.commands import run
from tests.helpers.report_runs import trained
from tests.unit.comparison.test_compare import train


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    top = tmp_path_factory.mktemp("runs")
    return [str(train(top / "a")), str(train(top / "b|<i>", lr=2e-3, seed=1, worse_from=61, torch="2.10"))]


def test_compare_printed_for_terminal(folders: list[str]) -> None:
    done = run("compare", *folders)
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    assert "curves, compared with a" in words
    assert "train/loss: apart since step" in words
    assert "apart since step 70; 0.9 -> 0.7 in b|<i>" in words
    assert "2.10" in words


def test_compare_markdown_escapes_names(folders: list[str]) -> None:
    done = run("compare", *folders, "--md")
    lines = done.stdout.splitlines()
    assert lines[0] == "### Comparison with a"
    assert "| settings | a | b\\|&lt;i> |" in lines
    assert "| lr | 0.001 | 0.002 |" in lines
    assert any(line.startswith("- train/loss: apart since step") for line in lines)
    assert len(lines) < 60


def test_compare_json_holds_everything(folders: list[str]) -> None:
    fields = json.loads(run("compare", *folders, "--json").stdout)
    assert [kind["runs"] for kind in fields["kinds"]] == [["a"], ["b|<i>"]]
    (loss,) = (curve for curve in fields["curves"] if curve["tag"] == "train/loss")
    assert loss["last"][0]["std"] is None
    assert abs(loss["parts"][0]["since"] - 61) <= 8


def test_compare_one_run_error_code_2(folders: list[str]) -> None:
    done = run("compare", folders[0])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "compare needs at least two runs" in done.stderr


def test_compare_tells_runs_that_failed(tmp_path: Path) -> None:
    runs = [str(trained(tmp_path / "a", succeeded=True)), str(trained(tmp_path / "b", lr=2.0, succeeded=False))]
    words = "b: The training failed, or was interrupted, after step 120."
    for option in ([], ["--md"]):
        assert words in run("compare", *runs, *option).stdout
    compared = json.loads(run("compare", *runs, "--json").stdout)
    assert words in compared["notes"]
    assert [kind["statuses"] for kind in compared["kinds"]] == [["succeeded"], ["failed"]]


def test_compare_kinds_told_apart_everywhere(tmp_path: Path) -> None:
    for number, lr in enumerate((1e-3, 2e-3, 1e-3, 2e-3), 1):
        train(tmp_path / f"run{number}", lr=lr, seed=number)
    words = " ".join(run("compare", str(tmp_path)).stdout.split())
    assert "curves, compared with lr=0.001 (run1, run3)" in words
    assert re.search("train/loss: .* in lr=0.002 ", words)
    markdown = run("compare", str(tmp_path), "--md").stdout
    assert "| settings | lr=0.001 (run1, run3) | lr=0.002 (run2, run4) |" in markdown
    fields = json.loads(run("compare", str(tmp_path), "--json").stdout)
    assert [kind["name"] for kind in fields["kinds"]] == ["lr=0.001", "lr=0.002"]
