"""Tests the Markdown of a report."""

from __future__ import annotations

from pathlib import Path

from tbx_callbacks.report.loaded_runs import read
from tbx_callbacks.report.markdown import markdown
from tests.helpers.commands import run
from tests.helpers.report_runs import HOSTILE, ended, trained


def test_markdown_of_run_has_verdict_and_results(tmp_path: Path) -> None:
    text = markdown(read([trained(tmp_path / "good"), trained(tmp_path / "bad", spike=60)]))
    lines = text.splitlines()
    assert any("**bad**: " in line for line in lines)
    assert "| result | good | bad |" in lines
    assert any(line.startswith("| eval/accuracy, best | 0.9000 (step 120) |") for line in lines)
    assert any(line.startswith("- **warning** `TBX-") and " in bad, step 60: " in line for line in lines)
    assert any(line.startswith("  Try: ") for line in lines)


def test_markdown_of_many_runs_fits_sixty_lines(tmp_path: Path) -> None:
    for number in range(15):
        extra = {f"eval/metric_{n}": float(n) for n in range(40)}
        trained(tmp_path / f"run{number}", steps=60, spike=40, lr=0.1 * number, extra=extra)
    lines = markdown(read([tmp_path])).splitlines()
    assert len(lines) <= 60
    assert "and 7 more runs" in lines


def test_markdown_escapes_names_and_mentions(tmp_path: Path) -> None:
    trained(tmp_path / "a|b", steps=20, extra={HOSTILE: 1.0, "eval/@everyone|x": 1.0})
    text = markdown(read([tmp_path / "a|b"]))
    assert "<script" not in text
    assert "@everyone" not in text
    assert "a\\|b" in text


def test_report_markdown_printed_to_stdout(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=20)
    done = run("report", str(tmp_path / "run"), "--md", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("### Runs\n")
    assert not (tmp_path / "report.html").exists()
    done = run("report", str(tmp_path / "run"), "--md", "--watch")
    assert (done.returncode, "one of --md, --json and --watch may be given" in done.stderr) == (2, True)


def test_markdown_failed_run_has_no_green_tick(tmp_path: Path) -> None:
    text = markdown(read([ended(tmp_path / "ok", "succeeded"), ended(tmp_path / "bad", "failed")]))
    ok, bad = (next(line for line in text.splitlines() if f"**{name}" in line) for name in ("ok", "bad"))
    assert ok.startswith("- \u2705 **ok")
    assert bad.startswith("- \u274c **bad")
    assert "**: The training failed, or was interrupted, after step 60. Nothing" in bad
