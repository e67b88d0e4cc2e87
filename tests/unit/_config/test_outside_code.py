"""Tests code of other packages that raises at every moment, and sets that are checked without their code."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tbx_callbacks import ConfigError, load_config
from tbx_callbacks._config.rule_options import load_rules
from tbx_callbacks._extensions import without_imports
from tbx_callbacks.rules import RULES, default_rules
from tests.helpers.commands import run, run_process
from tests.helpers.hostile_events import event, write_records
from tests.helpers.outside_package import FILES, install

AT_IMPORT = {
    "exits": ("import sys; sys.exit(3)", "SystemExit(3)"),
    "exits_with_text": ("raise SystemExit('bye')", "SystemExit('bye')"),
    "raises": ("{}['x']", "KeyError('x')"),
    "recurses": ("def f(): f()\nf()", "RecursionError"),
    "base": ("class Odd(BaseException): ...\nraise Odd('x')", "Odd('x')"),
    "generator_exit": ("raise GeneratorExit", "GeneratorExit()"),
    "mute": (
        "class Mute(Exception):\n  def __repr__(self): raise SystemExit\n  __str__ = __repr__\nraise Mute",
        "Mute without",
    ),
    "long": ("raise ValueError('x' * 10**6)", "xxx..."),
    "syntax": ("def f(:", "SyntaxError"),
    "no_utf8": ("\\x00", "SyntaxError"),
    "missing": ("import not_installed_at_all", "No module named 'not_installed_at_all'"),
    "getattr": ("def __getattr__(name): raise SystemExit(name)", "SystemExit('Name')"),
    "subclass": (
        "class A:\n  def __init_subclass__(cls): raise SystemExit(4)\nclass Name(A): ...",
        "SystemExit(4)",
    ),
    "memory": ("raise MemoryError('no')", "MemoryError('no')"),
}

CLASSES = """
    from dataclasses import dataclass, field
    from tbx_callbacks.metrics import Metric
    from tbx_callbacks.rules import Need, Rule
    from tbx_callbacks.writers import Writer

    LOSS = (Need("the loss", "loss", ("train/loss",)),)

    class Mute:
        def __repr__(self): raise SystemExit(5)
        __str__ = __repr__

    class Error(Exception):
        def __repr__(self): raise SystemExit(5)
        __str__ = __repr__

    @dataclass(frozen=True)
    class MetricExits(Metric):
        tags = {"a": ""}
        def __post_init__(self): raise SystemExit(6)
        def __call__(self, context): ...

    @dataclass(frozen=True)
    class MetricMute(Metric):
        tags = Mute()
        def __call__(self, context): ...

    @dataclass(frozen=True)
    class MetricError(Metric):
        tags = {"a": ""}
        def __post_init__(self): raise Error
        def __call__(self, context): ...

    class Meta(type):
        def __getattribute__(cls, name): raise SystemExit(7)

    class MetricMeta(metaclass=Meta): ...

    @dataclass(frozen=True)
    class RuleExits(Rule):
        needs, source = LOSS, "a test"
        def __post_init__(self): raise SystemExit(8)
        def __call__(self, run): ...

    @dataclass(frozen=True)
    class RuleMute(Rule):
        needs, source = Mute(), "a test"
        def __call__(self, run): ...

    @dataclass(frozen=True)
    class RuleCallExits(Rule):
        needs, source = LOSS, "a test"
        def __call__(self, run): raise SystemExit(9)

    class WriterMute(Writer):
        def __init__(self, log_dir, path=Mute()): ...
        def write(self, step, values): ...

    class WriterExits:
        class flush_type:
            def __get__(self, *_): raise SystemExit(10)
        flush = flush_type()
        def write(self, step, values): ...

    @dataclass(frozen=True)
    class CadenceExits:
        def __call__(self, step): raise SystemExit(11)

    @dataclass(frozen=True)
    class CadenceMute:
        def __call__(self, step): return True
        def __repr__(self): raise SystemExit(13)
        __str__ = __repr__

    @dataclass(frozen=True)
    class CadenceNew:
        def __post_init__(self): raise SystemExit(12)
        def __call__(self, step): return True

    @dataclass(frozen=True)
    class CadencePickle:
        def __reduce__(self): raise Error
        def __call__(self, step): return True
"""

ODD_CLASSES = [
    ({"metrics": ["my_pkg.odd.MetricExits"]}, "SystemExit(6)"),
    ({"metrics": ["my_pkg.odd.MetricMute"]}, "Mute without a text"),
    ({"metrics": ["my_pkg.odd.MetricError"]}, "Error without a text"),
    ({"metrics": ["my_pkg.odd.MetricMeta"]}, "SystemExit(7)"),
    ({"metrics": ["my_pkg.odd.Error"]}, "frozen dataclass"),
    ({"metrics": ["loss"], "rules": {"my_pkg.odd.RuleExits": "warn"}}, "SystemExit(8)"),
    ({"metrics": ["loss"], "rules": {"my_pkg.odd.RuleMute": "warn"}}, "Mute without a text"),
    ({"metrics": ["loss"], "writers": [{"my_pkg.odd.WriterMute": {"pat": 1}}]}, "did you mean 'path'?"),
    ({"metrics": ["loss"], "writers": ["my_pkg.odd.WriterExits"]}, "SystemExit(10)"),
    ({"metrics": ["loss"], "every": {"my_pkg.odd.CadenceExits": {}}}, "SystemExit(11)"),
    ({"metrics": ["loss"], "every": {"my_pkg.odd.CadenceNew": {}}}, "SystemExit(12)"),
    ({"metrics": ["loss"], "every": {"my_pkg.odd.CadencePickle": {}}}, "Error without a text"),
]
MODULES = {name: text for name, (text, _) in AT_IMPORT.items()}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "packages"
    install(folder, monkeypatch, files={**FILES, **MODULES, "odd": CLASSES})
    return folder


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("name", AT_IMPORT)
def test_module_that_raises_named_with_reason(name: str) -> None:
    path, reason = f"my_pkg.{name}.Name", AT_IMPORT[name][1]
    sets: list[dict[str, object]] = [
        {"metrics": [path]},
        {"metrics": ["loss"], "rules": {path: "warn"}},
        {"metrics": ["loss"], "rules": {"divergence": {"call": path}}},
        {"metrics": ["loss"], "rules": {"others": {"call": path}}},
        {"metrics": ["loss"], "writers": [path]},
        {"metrics": ["loss"], "every": {path: {}}},
    ]
    for given in sets:
        with pytest.raises(ConfigError) as raised:
            load_config(given)
        assert path in str(raised.value)
        assert reason in str(raised.value)
        assert len(str(raised.value)) < 1000


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(("given", "reason"), ODD_CLASSES, ids=[reason for _, reason in ODD_CLASSES])
def test_class_that_raises_named_with_reason(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(given)
    assert reason in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.usefixtures("packages")
def test_doctor_rule_that_exits_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_records(tmp_path / "run" / "events.out.tfevents.1.x", event(tag="train/loss", simple_value=1.0))
    (tmp_path / "rules.yaml").write_text("rules: {my_pkg.odd.RuleCallExits: {}}\n")
    done = run("doctor", str(tmp_path / "run"), "--rules", str(tmp_path / "rules.yaml"))
    assert done.returncode == 0
    assert "rule my_pkg.odd.RuleCallExits is left out: it failed with SystemExit(9)" in caplog.text


def test_interrupt_during_import_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, files={"__init__": "", "stops": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        load_config({"metrics": ["my_pkg.stops.Name"]})


def test_entry_points_that_exit_leave_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    groups = {
        "tbx_callbacks.metrics": {"exits": "my_pkg.exits:Name", "kurtosis": "my_pkg.metrics:Kurtosis"},
        "tbx_callbacks.rules": {
            "gone": "my_pkg.base:Name",
            "new": "my_pkg.odd:RuleExits",
            "high": "my_pkg.rules:TooHigh",
        },
        "tbx_callbacks.writers": {"mute": "my_pkg.mute:Name"},
    }
    install(tmp_path, monkeypatch, groups, files={**FILES, **MODULES, "odd": CLASSES})
    config = load_config({"metrics": ["loss", "kurtosis"], "rules": {"others": "warn"}})
    assert set(config.live.active_rules()) == {*RULES, "high"} == set(default_rules())
    assert len(caplog.records) == 2
    for name in ("exits", "gone", "mute"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            load_config({"metrics": ["loss"] + ["exits"] * (name == "exits"), "writers": ["tensorboard", "mute"]})
    assert "high" in load_rules({})
    assert run("metrics").returncode == 0
    assert run("schema").returncode == 0


NO_CODE = """
    extends: parent.yaml
    every: {my_pkg.exits.Cadence: {}}
    metrics:
      - loss
      - my_pkg.exits.Metric
      - grad_norm: {by: layer, every: {my_pkg.exits.Other: {n: 3}}}
      - exits: {any: 3}
    rules:
      others: warn
      divergence: {action: stop, call: my_pkg.exits.call}
      my_pkg.exits.Rule: {threshold: 3}
    writers: [tensorboard, my_pkg.exits.Writer]
"""
NAMES = {
    *(f"my_pkg.exits.{name}" for name in ("Cadence", "Metric", "Other", "call", "Rule", "Writer", "Parent")),
    *("exits", "rule_exits"),
}


def test_check_no_code_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {
        "tbx_callbacks.metrics": {"exits": "my_pkg.exits:Metric"},
        "tbx_callbacks.rules": {"rule_exits": "my_pkg.exits:Rule"},
    }
    install(tmp_path / "packages", monkeypatch, groups, files={"__init__": "print('imported')", "exits": "exit(3)"})
    (tmp_path / "set.yaml").write_text(dedent(NO_CODE))
    (tmp_path / "parent.yaml").write_text("metrics: [my_pkg.exits.Parent, clip]\n")
    done = run("check", "--no-code", "set.yaml", cwd=tmp_path)
    printed = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stderr
    assert "imported" not in printed
    assert "my_pkg" not in sys.modules
    assert set(printed.partition("not checked, for they are code: ")[2].split(", ")) == NAMES
    assert "my_pkg.exits.Cadence (not checked)" in printed
    assert all(name in printed for name in ("grad_norm", "clip", "divergence (stop, my_pkg.exits.call)"))
    assert run("check", "set.yaml", cwd=tmp_path).returncode == 2
    assert "my_pkg" in sys.modules


def test_check_no_code_finds_other_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "set.yaml"
    path.write_text("metrics: [a.b.C, los]\n")
    done = run("check", "--no-code", str(path))
    assert done.returncode == 2
    assert "metrics[1] must name a known metric, got 'los'" in done.stderr
    path.write_text("metrics: [a.b.C]\n")
    assert "not checked, for they are code: a.b.C" in run("check", "--no-code", str(path)).stdout
    assert "nothing: the set names no code" in run("check", "--no-code", "full").stdout


@pytest.mark.usefixtures("packages")
def test_check_cadence_without_text_shown(tmp_path: Path) -> None:
    path = tmp_path / "set.yaml"
    path.write_text("every: {my_pkg.odd.CadenceMute: {}}\nmetrics: [grad_norm]\n")
    done = run("check", str(path))
    assert done.returncode == 0
    assert "every: CadenceMute without a text" in " ".join(done.stdout.split())


def test_imports_possible_again_after_check(packages: Path) -> None:
    with without_imports() as skipped:
        load_config({"metrics": ["loss", "my_pkg.metrics.Ones"]})
    assert skipped == ["my_pkg.metrics.Ones"]
    assert len(load_config({"metrics": ["my_pkg.metrics.Ones"]}).items) == 1


def test_help_warns_of_code() -> None:
    assert "only use files you trust" in " ".join(run_process("check", "--help").stdout.split())
