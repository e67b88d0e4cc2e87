"""Tests the sentences about the batches of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks.report import figures, write_report
from tests.helpers.report_runs import trained

NOISE = {"gradient_noise/scale": 96.0, "gradient_noise/batch_size": 32.0}


def page(folder: Path, *runs: Path) -> str:
    target = folder / "report.html"
    write_report([str(run) for run in runs], target)
    return target.read_text(encoding="utf-8")


def test_report_says_what_larger_batch_brings(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", extra=NOISE)
    text = page(tmp_path, run)
    assert "A step had 32 examples, and the gradient&#39;s noise scale was 96 at its last point." in text
    # 1 + 96/32 = 4 steps; 1 + 96/64 = 2.5 with twice the batch; examples 1 + 32/96 and 1 + 64/96.
    assert (
        "needs 4 times the fewest possible steps. Twice the batch would save 38% of the steps, and take 25% more"
        in text
    )
    assert figures(run)["noise_scale"].data[0].y[-1] == pytest.approx(96.0)


def test_report_without_metrics_has_no_such_section(tmp_path: Path) -> None:
    assert 'id="batches"' not in page(tmp_path, trained(tmp_path / "run"))


def test_report_of_several_runs_names_them(tmp_path: Path) -> None:
    runs = [trained(tmp_path / name, extra=NOISE) for name in ("first", "second")]
    text = page(tmp_path, *runs)
    assert "first: A step had 32 examples" in text
    assert "second: A step had 32 examples" in text


def test_report_without_noise_says_batch_is_large(tmp_path: Path) -> None:
    text = page(tmp_path, trained(tmp_path / "run", extra={**NOISE, "gradient_noise/scale": 0.0}))
    assert "needs 1 times the fewest possible steps. Twice the batch would save 0% of the steps, and take 100%" in text


def test_report_says_what_padding_costs(tmp_path: Path) -> None:
    shares = {"padding/share": 0.4, "padding/savable": 0.3, "padding/at_limit": 0.004}
    text = page(tmp_path, trained(tmp_path / "run", extra=shares))
    assert (
        "40% of the tokens in the batches were padding; batches of rows of similar lengths would save 30% of the"
        " tokens; less than 1% of the texts fill the tokenizer&#39;s limit, so they may have been cut." in text
    )


def test_report_of_padding_alone_says_no_more(tmp_path: Path) -> None:
    text = page(tmp_path, trained(tmp_path / "run", extra={"padding/share": 0.4, "padding/at_limit": 0.0}))
    assert "40% of the tokens in the batches were padding.</p>" in text
