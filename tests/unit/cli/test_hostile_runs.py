"""Tests the commands on runs from outside: one bad file never hides the others, and every run ends in a result."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.helpers.commands import COMMAND, run, run_process
from tests.helpers.hostile_events import USUAL_TAGS, event, hostile_file, record, tensor, write_records
from tests.helpers.limits import limit
from tests.helpers.report_runs import trained
from tests.helpers.variations import variations
from tests.unit.runs.formats.test_event_files_hostile import NAME, make_odd_files

STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
FOLDERS = ["run", "b\x1b[31mad\r", "x\udcff", "<b>", "a\u202eb", "[red]"]


def page_data(page: Path) -> dict[str, object]:
    """The data of a page, which must be strict JSON."""
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    loaded: dict[str, object] = json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return loaded


def run_commands(folder: Path, seed: int, png: bool) -> set[tuple[str, int]]:
    """Runs doctor, doctor --json and report on hostile runs; returns the commands and their exit codes."""
    for number in range(1 + seed % 3):
        name = FOLDERS[(seed + number) % len(FOLDERS)]
        write_records(folder / "runs" / name / NAME, hostile_file(10 * seed + number))
    page, runs = folder / "report.html", str(folder / "runs")
    report = ["report", runs, "-o", str(page), *(["--png", str(folder / "png")] * png)]
    ends = set()
    for arguments in (["doctor", runs], ["doctor", runs, "--json"], report):
        try:
            done = run(*arguments)
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {arguments[0]}: {error!r}") from error
        assert STEERING.search(done.stdout + done.stderr) is None, f"seed {seed}"
        ends.add((arguments[0], done.returncode))
        if "--json" in arguments and done.returncode < 2:
            json.loads(done.stdout)
        if arguments[0] == "report" and done.returncode == 0:
            page_data(page)
    return ends


@pytest.mark.thorough
@pytest.mark.slow
def test_commands_on_hostile_runs_sample(tmp_path: Path) -> None:
    ends = [run_commands(tmp_path / str(seed), seed, png=seed == 2) for seed in range(8)]
    assert {("doctor", 1), ("report", 0)} <= set().union(*ends)


@pytest.mark.slow
@pytest.mark.thorough
def test_commands_on_hostile_runs_end(tmp_path: Path) -> None:
    ends = [run_commands(tmp_path / str(seed), seed, png=seed % 5 == 0) for seed in range(1_000, 1_030)]
    codes = set().union(*ends)
    assert {code for _, code in codes} <= {0, 1, 2}
    assert {("doctor", 0), ("doctor", 1), ("doctor", 2), ("report", 0)} <= codes


@pytest.mark.slow
def test_bad_runs_named_good_one_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(tmp_path / "good", steps=8)
    (tmp_path / "odd").mkdir()
    make_odd_files(tmp_path / "odd")
    write_records(tmp_path / "text" / NAME, b"no event file")
    for arguments in (["doctor", "."], ["doctor", ".", "--json"], ["report", "."], ["report", "gone", "text", "good"]):
        done = (run_process if arguments[0] == "report" else run)(*arguments, cwd=tmp_path)
        assert done.returncode < 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "text" in done.stderr + caplog.text
        assert STEERING.search(done.stdout + done.stderr) is None
    alone = run("report", "gone", "text", cwd=tmp_path)
    assert (alone.returncode, alone.stderr.count("\n")) == (2, 1)


def test_bad_files_beside_good_one_listed(tmp_path: Path) -> None:
    reasons = make_odd_files(trained(tmp_path / "run", steps=8))
    done = run("doctor", str(tmp_path))
    assert done.returncode == 0
    printed = " ".join(done.stdout.split())
    assert all(reason in printed for reason in reasons.values())
    assert STEERING.search(done.stdout) is None
    listed = json.loads(run("doctor", str(tmp_path), "--json").stdout)["runs"][0]["left_out"]
    assert len(listed) == len(reasons)
    assert run("report", str(tmp_path), "-o", str(tmp_path / "r.html")).returncode == 0
    assert "it is a link to nothing" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("make", ["pipe", "link", "folder", "empty", "text"])
def test_folder_of_one_odd_file_code_2(tmp_path: Path, make: str) -> None:
    make_odd_files(tmp_path)
    for path in tmp_path.iterdir():
        if not path.name.endswith(make):
            path.rmdir() if path.is_dir() else path.unlink()
    done = run("doctor", str(tmp_path))
    assert done.returncode == 2
    assert f"tfevents.1.{make}: it " in done.stderr if make != "folder" else "must hold logs of a run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", variations([0.0, 1e-45, 3e38, -3e38, math.nan, math.inf, -math.inf], 3e38, math.nan))
def test_report_of_one_number_everywhere_renders(tmp_path: Path, number: float) -> None:
    scalars = [tag for tag in USUAL_TAGS if not tag.startswith(("weights/", "_hparams_")) and "text" not in tag]
    events = [event(step, tag=tag, simple_value=number) for step in range(1, 45) for tag in scalars]
    write_records(tmp_path / "run" / NAME, *events)
    done = run("report", str(tmp_path / "run"), "-o", str(tmp_path / "r.html"), "--png", str(tmp_path / "png"))
    assert done.returncode == 0, done.stderr
    assert len(page_data(tmp_path / "r.html")["figures"]) > 5  # type: ignore[arg-type]
    assert run("doctor", str(tmp_path / "run")).returncode < 2


@pytest.mark.parametrize("first", [2**31, 2**40, 2**53 - 2, 2**53, 2**63 - 3, -(2**63)])
def test_report_charts_keep_large_steps(tmp_path: Path, first: int) -> None:
    events = [event(first + n, 1.7e9 + n, tag="train/loss", simple_value=0.5) for n in range(3)]
    write_records(tmp_path / "run" / NAME, *events)
    assert run("report", str(tmp_path / "run"), "-o", str(tmp_path / "r.html")).returncode == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert ("steps above 2^53 are rounded" in text) is (abs(first + 2 * (first > 0)) > 2**53)
    (run_data,) = page_data(tmp_path / "r.html")["runs"]  # type: ignore[misc]
    assert run_data["steps"][0] == float(first)
    assert f"{first + 2:,}" in text


def test_report_impossible_times_shown_as_unknown(tmp_path: Path) -> None:
    times = [math.nan, math.inf, -math.inf, 1e300, -5.0]
    write_records(
        tmp_path / "a" / NAME, *[event(n, time, tag="train/loss", simple_value=0.5) for n, time in enumerate(times)]
    )
    write_records(
        tmp_path / "b" / NAME,
        *[event(n, 1.7e9 + n if n % 2 else math.nan, tag="train/loss", simple_value=0.5) for n in range(20)],
    )
    assert run("report", str(tmp_path), "-o", str(tmp_path / "r.html")).returncode == 0
    assert ">started</th><td>unknown" in (tmp_path / "r.html").read_text(encoding="utf-8")
    unknown, known = page_data(tmp_path / "r.html")["runs"]  # type: ignore[misc]
    assert unknown["seconds"] == [0, 0]
    assert known["seconds"] == [float(n) for n in range(0, 19, 2)]


def test_report_figures_of_similar_tags_all_shown(tmp_path: Path) -> None:
    histogram = {"min": 0.0, "max": 1.0, "bucket_limit": [1.0], "bucket": [1.0]}
    families = ["a b", "a_b", "a\0b", "a\rb", 'a"b', "a\u202eb"]
    events = [event(n, tag=f"{family}/x", histo=histogram) for n in (1, 2) for family in families]
    write_records(tmp_path / "run" / NAME, event(1, tag="train/loss", simple_value=1.0), *events)
    assert run("report", str(tmp_path / "run"), "-o", str(tmp_path / "r.html")).returncode == 0
    names = [name for name in page_data(tmp_path / "r.html")["figures"] if "histogram" in name]  # type: ignore[attr-defined]
    assert len(names) == len(families)
    assert all(re.fullmatch(r"[\w.-]+", name, re.ASCII) for name in names)


def test_report_texts_hide_no_characters(tmp_path: Path) -> None:
    words = b'\x1b[31m \xe2\x80\xae {"a": "\\ud800"} \x00'
    text = {"tensor": tensor(7, [1], string_val=[words]), "metadata": {"plugin_data": {"plugin_name": "text"}}}
    events = [
        event(1, tag=tag, **text) for tag in ("note/text_summary", "args/text_summary", "environment/text_summary")
    ]
    write_records(tmp_path / "run" / NAME, event(1, tag="train/loss", simple_value=1.0), *events)
    assert run("report", str(tmp_path / "run"), "-o", str(tmp_path / "r.html")).returncode == 0
    own = re.sub(
        r"<script.*?</script>|<style.*?</style>", "", (tmp_path / "r.html").read_text("utf-8"), flags=re.DOTALL
    )
    assert STEERING.search(own) is None
    assert "?[31m ?" in own


def test_report_to_folder_or_pipe_one_line(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=8)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("kept")
    for arguments in (
        *(["-o", path] for path in ("folder", "pipe", ".", "/", "gone/r.html", "file/r.html", "n" * 300, "run")),
        *(["--png", path] for path in ("file", "pipe", "gone/png")),
        ["-o", "-", "--watch"],
    ):
        done = run("report", "run", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), arguments
        assert "must" in done.stderr
    assert (tmp_path / "file").read_text() == "kept"
    assert [path.name for path in tmp_path.rglob("*.part")] == []


def test_doctor_rules_pipe_refused(tmp_path: Path) -> None:
    trained(tmp_path / "run", steps=8)
    os.mkfifo(tmp_path / "rules.yaml")
    for command in (["doctor", "run", "--rules"], ["report", "run", "--rules"], ["check"]):
        done = run(*command, "rules.yaml", cwd=tmp_path)
        assert done.returncode == 2
        assert "is no regular file" in done.stderr


def test_doctor_growing_and_cut_file_reads(tmp_path: Path) -> None:
    path = write_records(tmp_path / "run" / NAME, event(1, tag="train/loss", simple_value=1.0))
    stop = threading.Event()

    def grow_and_cut() -> None:
        step = 2
        while not stop.is_set():
            with path.open("ab") as file:
                file.write(event(step, tag="train/loss", simple_value=1.0) + record(b"\xff")[: step % 17])
            if step % 50 == 0:
                os.truncate(path, path.stat().st_size * 2 // 3)
            step += 1

    thread = threading.Thread(target=grow_and_cut)
    thread.start()
    try:
        codes = {run("doctor", str(tmp_path)).returncode for _ in range(8)}
    finally:
        stop.set()
        thread.join()
    assert codes <= {0, 1}


def test_report_watch_survives_odd_files(tmp_path: Path) -> None:
    make_odd_files(trained(tmp_path / "run", steps=8))
    watching = subprocess.Popen(
        [*COMMAND, "report", "run", "--watch", "--every", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        assert "report.html" in watching.stdout.readline()
    finally:
        watching.send_signal(signal.SIGINT)
        out, error = watching.communicate(timeout=limit(60))
    assert out.endswith("report: report.html\n"), error
