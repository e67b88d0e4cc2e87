"""Tests metrics of other packages in metric sets."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks import ConfigError, load_config
from tbx_callbacks._config.json_schema import json_schema
from tbx_callbacks.metrics.registry import METRICS
from tests.helpers.outside_package import FILES, install

OPTIONS = """
    from dataclasses import dataclass, field
    from enum import Enum
    from tbx_callbacks.metrics import Metric

    class Colour(Enum):
        RED = "red"
        BLUE = "blue"

    @dataclass(frozen=True)
    class Options(Metric):
        names: tuple[str, ...] = ()
        table: dict[str, float] = field(default_factory=dict)
        chosen: frozenset[str] = frozenset()
        colour: Colour = Colour.RED
        tags = {"options": ""}
        def __post_init__(self):
            if len(self.names) > 2:
                raise RuntimeError("at most two names")
        def __call__(self, context): return {}

    @dataclass(frozen=True)
    class Function(Metric):
        function: type(len) = len
        tags = {"function": ""}
        def __call__(self, context): return {}

    @dataclass(frozen=True)
    class Shadows(Metric):
        copy: int = 1
        tags = {"shadows": ""}
        def __call__(self, context): return {}

    @dataclass(frozen=True)
    class Every(Metric):
        every: int = 1
        tags = {"every": ""}
        def __call__(self, context): return {}
"""
NAMES = {"kurtosis": "my_pkg.metrics:Kurtosis", "same": "my_pkg.metrics:Kurtosis", "broken": "my_pkg.nowhere:It"}


@pytest.fixture(autouse=True)
def _outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, {"tbx_callbacks.metrics": NAMES}, files={**FILES, "options": OPTIONS})


@pytest.mark.parametrize("name", ["kurtosis", "my_pkg.metrics.Kurtosis"])
def test_outside_metric_takes_all_options(name: str) -> None:
    options = {"by": "total", "include": "encoder", "every": 7, "power": 3}
    config = load_config({"metrics": ["loss", {name: options}, {name: None}]})
    _, item, default = config.items
    assert (item.name, item.every, item.metric.power) == (name, 7, 3)  # type: ignore[attr-defined]
    assert item.select is not None
    assert (item.select.by, item.select.include) == ("total", "encoder")
    assert default.select is not None
    assert default.select.by == "layer"
    assert pickle.loads(pickle.dumps(config)) == config


MISTAKES: list[tuple[Any, str]] = [
    (
        {"kurtosis": {"pwer": 3}},
        ".kurtosis.pwer must be a known option, got 'pwer'; did you mean 'power'? known options",
    ),
    ({"kurtosis": {"power": "x"}}, ".kurtosis.power must be a valid integer, got 'x'"),
    ({"my_pkg.metrics.Kurtosis": {"power": True}}, ".my_pkg.metrics.Kurtosis.power must be a valid integer, got True"),
    ("kurtosiss", " must name a known metric, got 'kurtosiss'; did you mean 'kurtosis'? known metrics: loss, outputs"),
    (
        "my_pkg.metrics.Kurtosiss",
        " must name a metric that can be used, got 'my_pkg.metrics.Kurtosiss': module my_pkg.metrics has no Kurtosiss;"
        " did you mean 'Kurtosis'? known names in my_pkg.metrics: Kurtosis, Ones, Plain",
    ),
    (
        "my_pkg.metrics.Plain",
        " must name a metric that can be used, got 'my_pkg.metrics.Plain': it must be a frozen data",
    ),
    (
        "broken",
        " must name a metric that can be used, got 'broken': its entry point my_pkg.nowhere:It cannot be imported",
    ),
    ({"my_pkg.options.Options": {"names": ["a", "b", "c"]}}, ".my_pkg.options.Options: at most two names"),
    ({"my_pkg.options.Options": {"names": "abc"}}, ".my_pkg.options.Options.names must be a valid tuple, got 'abc'"),
    ({"my_pkg.options.Options": {"names": [1]}}, ".my_pkg.options.Options.names[0] must be a valid string, got 1"),
    (
        {"my_pkg.options.Options": {"colour": "green"}},
        ".my_pkg.options.Options.colour must be 'red' or 'blue', got 'gr",
    ),
    (
        {"my_pkg.options.Options": {"table": {"a": "x"}}},
        ".my_pkg.options.Options.table.a must be a valid number, got 'x'",
    ),
    (
        "my_pkg.options.Function",
        " must name a metric that can be used, got 'my_pkg.options.Function': every option must have a type that YAML",
    ),
    (
        "my_pkg.options.Shadows",
        " must name a metric that can be used, got 'my_pkg.options.Shadows': no option must be named copy, which has",
    ),
    (
        "my_pkg.options.Every",
        " must name a metric that can be used, got 'my_pkg.options.Every': no option must be named every, which has",
    ),
]


@pytest.mark.parametrize(("entry", "message"), MISTAKES, ids=[message[:60] for _, message in MISTAKES])
def test_outside_metric_mistake_names_place(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config({"metrics": ["loss", entry]})
    assert str(raised.value).startswith(f"a mapping: metrics[1]{message}")


def test_outside_metric_options_from_yaml_lists() -> None:
    options = {"names": ["a", "b"], "table": {"a": 1}, "chosen": ["x", "y"], "colour": "blue"}
    (item,) = load_config({"metrics": [{"my_pkg.options.Options": options}]}).items
    metric: Any = item.metric
    assert metric.names == ("a", "b")
    assert metric.chosen == frozenset({"x", "y"})
    assert metric.colour.value == "blue"


def test_two_names_of_one_class_are_one() -> None:
    with pytest.raises(ConfigError, match=r"metrics\[1\]\.same must differ from the items before it in by"):
        load_config({"metrics": ["kurtosis", "same"]})
    config = load_config({"metrics": ["kurtosis", {"my_pkg.metrics.Kurtosis": {"by": "total"}}]})
    assert len(config.items) == 2


def test_outside_metric_replaced_or_removed_by_any_name(tmp_path: Path) -> None:
    path = tmp_path / "base.yaml"
    path.write_text("metrics: [loss, kurtosis, my_pkg.metrics.Ones]\n")
    config = load_config({"extends": str(path), "metrics": [{"my_pkg.metrics.Kurtosis": {"every": 5}}]})
    assert [(item.name, item.every) for item in config.items][1] == ("my_pkg.metrics.Kurtosis", 5)
    assert len(config.items) == 3
    without = load_config({"extends": str(path), "metrics": [{"same": False}]})
    assert [item.name for item in without.items] == ["loss", "my_pkg.metrics.Ones"]


def test_broken_entry_point_leaves_other_sets_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(load_config("full").items) > 20
        assert len(load_config({"metrics": ["loss", "kurtosis"]}).items) == 2
        assert not caplog.records
        assert set(json_schema()["$defs"]) == set(json_schema()["$defs"]) == {*METRICS, "kurtosis", "same"}
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "metric entry point broken is ignored: its entry point my_pkg.nowhere:It cannot be"
    )


def test_schema_accepts_outside_metrics_and_paths() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    good = ["kurtosis", {"kurtosis": {"power": 3, "by": "total"}}, "a.b.C", {"a.b.C": {"x": 1}}, {"a.b.C": None}]
    bad: list[Any] = [
        {"kurtosis": {"pwer": 3}},
        {"kurtosis": 3},
        "kurtosiss",
        {"a.b.C": 3},
        {"a.b.C": {}, "d.E": {}},
        {},
    ]
    assert [entry for entry in good if not validator.is_valid({"metrics": [entry]})] == []
    assert [entry for entry in bad if validator.is_valid({"metrics": [entry]})] == []
