"""Tests the report's views of predictions: the confusion matrix beside its wrong texts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from tbx_callbacks.report import write_report
from tbx_callbacks.report.loaded_runs import read
from tbx_callbacks.report.predictions import curves, images, views
from tbx_callbacks.report.text_tables import TextTable

WORST = "| predicted | text |\n|---|---|\n| bad | a &lt;dull&gt; film |"


def predicted(folder: Path, split: str = "eval") -> Path:
    picture = np.zeros((3, 4, 4), np.float32)
    with SummaryWriter(str(folder)) as writer:
        writer.add_scalar("train/loss", 1.0, 1)
        writer.add_image(f"{split}/confusion_matrix", picture, 1)
        writer.add_image(f"{split}/calibration/reliability", picture, 1)
        writer.add_image("other", picture, 1)
        writer.add_text(f"{split}/worst", WORST, 1)
        for name in ("good", "bad"):
            truth = np.array([0, 1, 1, 0])
            writer.add_pr_curve(f"{split}/precision_recall/{name}", truth, np.linspace(0, 1, 4), 1, num_thresholds=5)
    return folder


def test_views_matrix_with_its_wrong_predictions(tmp_path: Path) -> None:
    (loaded_run,) = read([predicted(tmp_path)])
    (view,) = views([loaded_run])
    assert [image.tag for image in view.images] == ["eval/confusion_matrix", "eval/calibration/reliability"]
    assert view.texts == (TextTable(("predicted", "text"), (("bad", "a <dull> film"),)),)
    assert [image.tag for image in images([loaded_run])] == ["other"]


def test_page_wrong_predictions_beside_matrix_only(tmp_path: Path) -> None:
    page = write_report([predicted(tmp_path / "run")], tmp_path / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="predictions"') : page.index('<section id="logged"')]
    assert section.index('alt="eval/confusion_matrix of run"') < section.index("<td>a &lt;dull&gt; film</td>")
    assert page.count("film</td>") == 1
    assert not re.search(r"<summary>eval/worst", page)


def test_curves_of_run_differ_by_colour(tmp_path: Path) -> None:
    single = curves(read([predicted(tmp_path / "a")]))["precision_recall"].data
    assert [trace.name for trace in single] == ["eval good", "eval bad"]
    assert len({trace.line.color for trace in single}) == 2
    predicted(tmp_path / "b")
    both = curves(read([tmp_path]))["precision_recall"].data
    dashes = [("eval good", "solid"), ("eval bad", "dash")]
    assert [(trace.meta["label"], trace.line.dash) for trace in both] == 2 * dashes
    assert len({trace.line.color for trace in both}) == 2
