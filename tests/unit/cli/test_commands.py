"""Tests the command line as a user runs it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from importlib.metadata import packages_distributions
from pathlib import Path
from textwrap import dedent

import pytest

from tbx_callbacks.cli.metric_sets import metric_summaries
from tbx_callbacks.cli.terminal import Terminal, print_pairs
from tbx_callbacks.metrics.registry import METRICS
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.commands import COMMAND, run, run_process
from tests.helpers.limits import limit
from tests.helpers.outside_package import METRIC, install
from tests.helpers.report_runs import trained
from tests.helpers.variations import variations


def test_sets_and_metrics_list_everything() -> None:
    sets = run("sets").stdout
    assert all(name in sets for name in ("minimal", "default", "full"))
    lines = run("metrics").stdout.splitlines()  # not to a terminal: a line each
    assert [line.split()[0] for line in lines] == list(METRICS)
    for line, cls in zip(lines, METRICS.values(), strict=True):
        assert " ".join((cls.__doc__ or "").split("\n\n")[0].split()) in line


@pytest.mark.parametrize("name", ["weight_histogram", "examples", "loss", "lora"])
def test_metrics_shows_one_in_full(name: str) -> None:
    shown, cls = run("metrics", name).stdout, METRICS[name]
    assert all(f"  {tag}" in shown for tag in cls.tags)
    assert all(unit in shown for unit in cls.tags.values())
    assert f"Cost: {cls.cost}" in shown
    flat = " ".join(shown.split())
    assert " ".join((cls.__doc__ or "").split()) in flat
    if name == "weight_histogram":
        assert "bins 64" in flat
        assert "by layer" in flat


def test_metrics_fits_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("tbx_callbacks.cli.terminal.console", Terminal(file=out, force_terminal=True, width=80))
    print_pairs(metric_summaries())
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in METRICS)
    assert "\u2026" not in out.getvalue()  # nothing is cut
    shown = " ".join(" ".join(lines).split())
    assert "histogram" in shown


def test_metrics_unknown_name_suggested() -> None:
    done = run("metrics", "grad_norms")
    assert done.returncode == 2
    assert "NAME must be a metric, got 'grad_norms'; did you mean 'grad_norm'?" in done.stderr
    assert run("metrics", "my_pkg.nowhere").returncode == 2


def test_check_good_and_bad_sets(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("extends: minimal\nevery: 20\nmetrics:\n  - weight_norm: {by: layer, include: encoder}\n")
    done = run("check", str(good))
    assert done.returncode == 0
    assert "by layer, include encoder" in done.stdout
    assert "good.yaml: 9 metrics, every: 20, strict: False" in done.stdout
    assert "rules: none" in done.stdout
    (tmp_path / "my_alarms.py").write_text("def ring(finding): ...\n")
    good.write_text("extends: default\nrules:\n  divergence: {action: stop, call: my_alarms.ring}\n")
    printed = " ".join(run("check", "good.yaml", cwd=tmp_path).stdout.split())
    assert "nonfinite (warn), divergence (stop, my_alarms.ring), replicas_differ (warn), wiring (warn)" in printed
    bad = tmp_path / "bad.yaml"
    bad.write_text("metrics:\n  - grad_norms\n")
    done = run_process("check", str(bad))
    assert done.returncode == 2
    assert "bad.yaml: metrics[0] must name a known metric, got 'grad_norms'; did you mean 'grad_norm'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_schema_prints_every_metric() -> None:
    assert set(json.loads(run("schema").stdout)["$defs"]) == set(METRICS)


def test_commands_know_outside_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {
        "tbx_callbacks.metrics": {"kurtosis": "my_pkg.metrics:Kurtosis", "broken": "my_pkg.nowhere:It"},
        "tbx_callbacks.rules": {"too_high": "my_pkg.rules:TooHigh"},
        "tbx_callbacks.writers": {"lines": "my_pkg.writers:Lines"},
    }
    install(tmp_path, monkeypatch, groups)
    assert "Squares of the weights." in run("metrics").stdout
    shown = run("metrics", "kurtosis").stdout
    assert "kurtosis/{group}" in shown
    assert "power    2" in shown
    schema = json.loads(run("schema").stdout)
    assert set(schema["$defs"]) == {*METRICS, "kurtosis"}
    assert "too_high" in schema["properties"]["rules"]["anyOf"][2]["properties"]
    path = tmp_path / "outside.yaml"
    path.write_text(
        "every: {my_pkg.cadences.Fibonacci: {start: 3}}\n"
        "metrics:\n  - kurtosis: {by: total, every: {per_decade: 4}}\n  - my_pkg.metrics.Ones: {every: {epochs: 0.5}}\n"
        "rules: {my_pkg.rules.TooHigh: {action: stop, threshold: 3}}\n"
        "writers: [tensorboard, {my_pkg.writers.Lines: {path: x}}]\n"
    )
    printed = " ".join(run("check", str(path)).stdout.split())
    for text in (
        "4 times per decade of steps",
        "0.5 epochs",
        "every: Fibonacci(start=3)",
        "rules: my_pkg.rules.TooHigh (stop)",
        "writers: tensorboard, my_pkg.writers.Lines",
    ):
        assert text in printed
    path.write_text("metrics: [my_pkg.metrics.Kurtosiss]\n")
    done = run("check", str(path))
    assert done.returncode == 2
    assert "did you mean 'Kurtosis'?" in done.stderr


@pytest.mark.slow
def test_check_finds_classes_in_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(dedent(METRIC))
    (tmp_path / "mine.yaml").write_text("metrics: [mine.Kurtosis]\n")
    done = run_process("check", "mine.yaml", cwd=tmp_path)
    assert "mine.Kurtosis" in done.stdout


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """A folder with a file of the name of each installed and each built-in module, which leaves a mark if it is run."""
    for name in {*packages_distributions(), *sys.stdlib_module_names} - {"tbx_callbacks"}:
        if name.isidentifier():
            (tmp_path / f"{name}.py").write_text(f"open('RAN_{name}', 'w').close(); raise SystemExit(9)\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    variations(
        [
            ["check", "--no-code", "own.yaml"],
            ["check", "--no-code", "plain.yaml"],
            ["check", "own.yaml"],
            ["sets"],
            ["metrics"],
            ["schema"],
            ["doctor", "run"],
            ["report", "run", "--png", "png"],
            ["recipe"],
        ],
        ["check", "own.yaml"],
        ["doctor", "run"],
    ),
    ids=" ".join,
)
def test_commands_never_run_namesake_of_library(shadowed: Path, arguments: list[str]) -> None:
    trained(shadowed / "run", steps=3)
    (shadowed / "mine.py").write_text(f"open('mine.ran', 'w').close()\n{dedent(METRIC)}")
    (shadowed / "own.yaml").write_text("metrics: [mine.Kurtosis]\n")
    (shadowed / "plain.yaml").write_text("metrics: [loss]\n")
    done = run_process(*arguments, cwd=shadowed)
    assert (done.returncode, [path.name for path in shadowed.glob("RAN_*")]) == (0, []), done.stderr
    assert (shadowed / "mine.ran").exists() == (arguments == ["check", "own.yaml"])


@pytest.mark.thorough
def test_check_module_of_folder_may_import_neighbours(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("import beside\n")
    (tmp_path / "beside.py").write_text("import sys; sys.path.remove('')\n")  # whatever the code does to the path
    (tmp_path / "mine" / "metrics.py").write_text(dedent(METRIC))
    (tmp_path / "mine.yaml").write_text("metrics: [mine.metrics.Kurtosis]\n")
    done = run_process("check", "mine.yaml", cwd=tmp_path)
    assert "mine.metrics.Kurtosis" in done.stdout


def test_recipe_lists_and_suggests_names() -> None:
    assert "bert-sentiment" in run("recipe").stdout
    done = run("recipe", "bert-sentimant")
    assert done.returncode == 2
    assert "did you mean 'bert-sentiment'?" in done.stderr


def test_view_serves_run_and_prints_url(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path / "run")
    writer.write(1, {"train/loss": 0.5})
    writer.close()
    board = subprocess.Popen(
        [*COMMAND, "view", "run", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert board.stdout is not None
        url = re.search(r"http://localhost:\d+/", board.stdout.readline())
        assert url is not None
        with urllib.request.urlopen(f"{url.group()}data/plugin/scalars/tags", timeout=limit(30)) as answer:
            json.load(answer)
    finally:
        board.send_signal(signal.SIGINT)
        out, _ = board.communicate(timeout=limit(30))
    assert "stopped" in out


def test_view_wrong_folder_or_port_code_2(tmp_path: Path) -> None:
    missing = run("view", str(tmp_path / "nothing"))
    assert missing.returncode == 2
    assert "LOGDIR must be a folder" in missing.stderr
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_process("view", str(tmp_path), "--port", port)
    assert done.returncode == 2
    assert f"port {port} is in use; choose another with --port" in done.stderr


def test_view_without_tensorboard_prints_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    done = run("view", str(tmp_path))
    assert done.returncode == 2
    assert "pip install tbx-callbacks[view]" in done.stderr


def test_help_lists_commands() -> None:
    for out in (run(), run_process("--help")):
        assert all(
            command in out.stdout + out.stderr
            for command in ("sets", "metrics", "check", "schema", "view", "doctor", "recipe")
        )


def test_check_kept_inherited_metrics_named(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("extends: default\nmetrics:\n  - weight_histogram: {every: 20, include: head}\n", encoding="utf-8")
    assert "inherited and kept: weight_histogram (by layer); `- weight_histogram: off`" in " ".join(
        run("check", str(own)).stdout.split()
    )
    own.write_text(
        "extends: default\nmetrics:\n  - weight_histogram: off\n  - weight_histogram: {every: 20, include: head}\n",
        encoding="utf-8",
    )
    assert "inherited and kept" not in run("check", str(own)).stdout
