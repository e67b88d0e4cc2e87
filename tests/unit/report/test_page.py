"""Tests `tbx-callbacks report` as a user runs it, and the contents of its page."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.report import write_report
from tbx_callbacks.report.loaded_runs import read
from tbx_callbacks.report.page import render
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.commands import COMMAND, run, run_process
from tests.helpers.limits import limit
from tests.helpers.report_runs import HOSTILE, ended, trained


def test_page_is_self_contained(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=200, spike=120)
    (tmp_path / "out").mkdir()
    done = run("report", str(tmp_path / "run"), "-o", "out/report.html", "--png", "pictures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "report: out/report.html\n"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
    assert len(page) < 12 * 2**20
    own = re.sub(r"<script nonce.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", own)
    assert page.count("plotly.js v") == 1
    assert "loss_spike" in own
    assert "Look at the batches just before this step" in own
    assert ">warm_up</th><td>True</td>" in own
    assert ">hidden</th><td>64</td>" in own
    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"loss.png", "gradient_norm.png", "grad_norm.png", "throughput.png"} <= pictures
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "pictures").iterdir())


def test_page_of_several_runs_compares_them(tmp_path: Path) -> None:
    trained(tmp_path / "one"), trained(tmp_path / "two", lr=1e-2, steps=60)
    page = write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    differ = page[page.index("Hyper-parameters that differ") : page.index("<nav")]
    assert re.search(r">lr</th><td>0\.001</td><td>0\.01</td>", differ)
    assert "batch" not in differ
    results = page[page.index("<h3>Results") : page.index("Hyper-parameters that differ")]
    assert re.search(r"eval/accuracy, best</th><td>0\.9000 \(step 120\)</td><td>0\.9000 \(step 60\)</td>", results)
    assert re.search(r'eval/loss, best</th><td class="best">', results)


def test_page_of_many_runs_starts_with_table(tmp_path: Path) -> None:
    for number in range(9):
        trained(tmp_path / f"run{number}", steps=8, lr=0.1 * number)
    page = write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index('<section id="comparison"') < page.index('<section id="findings"')
    table = page[page.index("<table") : page.index("</table>")]
    assert re.findall(r'<th scope="row">.*?</svg>(\w+)</th>', table) == [f"run{number}" for number in range(9)]
    assert re.findall(r'<th scope="col">([^<]*)</th>', table)[:2] == ["findings", "train loss, last"]
    assert page.count('<details class="run">') == 9


def test_page_logged_tables_are_tables(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path / "run")
    writer.write(1, {"train/loss": 1.0, "arguments": Text(f"Arguments\n\n|key|value|\n|-|-|\n|lr|{HOSTILE}|")})
    writer.close()
    page = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    logged = page[page.index('<section id="logged"') : page.index('<section id="facts"')]
    assert "<pre>Arguments</pre>" in logged
    assert '<th scope="col">key</th>' in logged
    assert '<td>lr</td><td class="long">&lt;script&gt;' in logged


def test_page_hostile_text_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "<b>run"
    with SummaryWriter(str(folder)) as writer:
        for step in range(3):
            writer.add_scalar("train/loss", 1.0, step)
            writer.add_scalar(HOSTILE, 1.0, step)
        writer.add_text("worst/<i>", f"a film {HOSTILE}", 1)
    page = write_report([folder], tmp_path / "report.html").read_text(encoding="utf-8")
    own = re.sub(r"<script nonce.*?</script>", "", page, flags=re.DOTALL)
    assert "window.hacked" in own
    assert not re.search(r"<(?:script|img|b|i)>?[^>]*hacked|<b>run|worst/<i>", own)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', own, re.DOTALL)
    assert "<" not in data
    assert any("&lt;script&gt;" in trace["name"] for f in json.loads(data)["figures"].values() for trace in f["data"])


def test_page_shows_images_curves_and_texts(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("train/loss", 1.0, 1)
        writer.add_image("confusion_matrix", np.zeros((3, 4, 4), np.float32), 1)
        writer.add_pr_curve("eval/pr", np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.6, 0.4]), 1, num_thresholds=11)
        writer.add_text("eval/worst", "a dull film", 1)
    page = write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r'<img src="data:image/png;base64,[\w+/=]+" alt="confusion_matrix of ', page)
    assert 'id="figure-precision_recall"' in page
    assert "<pre>a dull film</pre>" in page


def test_report_command_mistake_one_line_code_2(tmp_path: Path) -> None:
    done = run_process("report", str(tmp_path / "none"), cwd=tmp_path)
    assert done.returncode == 2
    assert "LOGDIR must be a folder with runs" in done.stderr
    assert "Traceback" not in done.stderr
    trained(tmp_path / "run", steps=8)
    (tmp_path / "file").write_text("")
    done = run("report", str(tmp_path / "run"), "-o", "file/report.html", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


@pytest.mark.slow
def test_report_command_watch_refreshes_until_interrupted(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=8)
    page = tmp_path / "report.html"
    watching = subprocess.Popen(
        [*COMMAND, "report", "run", "-o", "report.html", "--watch", "--every", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        assert "report.html" in watching.stdout.readline()
        assert '"refresh":1.0' in page.read_text(encoding="utf-8")
        trained(tmp_path / "run", steps=16)
        assert "report.html" in watching.stdout.readline()
    finally:
        watching.send_signal(signal.SIGINT)
        out, _ = watching.communicate(timeout=limit(60))
    assert out.endswith("report: report.html\n")
    assert '"refresh":null' in page.read_text(encoding="utf-8")


def test_write_report_of_large_run_reports_progress(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=600)
    reports: list[tuple[str, int, int]] = []
    write_report(
        [tmp_path], tmp_path / "r.html", progress=lambda name: lambda done, total: reports.append((name, done, total))
    )
    assert reports[-1][0] == "run"
    assert reports[-1][1] == reports[-1][2] > 0


def test_page_header_shows_last_value_not_finite(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path / "run")
    for step in range(1, 5):
        values = {"train/loss": 1.0, "eval/thing": 1.0, "eval/up": 1.0, "nonfinite/losses": float(step > 2)}
        writer.write(step, values if step < 4 else values | {"eval/thing": float("nan"), "eval/up": float("inf")})
    writer.close()
    page = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    header = re.sub(r"<[^>]*>|\s+", " ", page[page.index("<header") : page.index("</header>")])
    header = re.sub(" +", " ", header)
    assert "eval/thing, last NaN step 4" in header
    assert "eval/up, last Inf step 4" in header
    assert "train loss, last 1.0000 without NaN and Inf" in header


def test_page_of_failed_run_says_so(tmp_path: Path) -> None:
    failed, succeeded = (render(read([ended(tmp_path / status, status)])) for status in ("failed", "succeeded"))
    assert '<p class="verdict failed"><b>The training failed, or was interrupted, after step 60.</b></p>' in failed
    assert 'class="verdict nothing_found"' not in failed
    assert 'class="verdict nothing_found"' in succeeded
