"""Tests the lookup of classes by bundled name, entry point and dotted path."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from tbx_callbacks._extensions import ExtensionError, import_object, suggest
from tbx_callbacks.metrics.norms import WeightNorm
from tbx_callbacks.metrics.registry import METRIC_CLASSES, METRICS
from tbx_callbacks.rules.registry import RULE_CLASSES, RULES, create_rule
from tbx_callbacks.writers.registry import WRITER_CLASSES, WRITERS
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.outside_package import FILES, install


def test_suggest_near_name_first_then_known_ones() -> None:
    assert suggest("los", ("loss", "clip"), what="metrics") == "did you mean 'loss'? known metrics: loss, clip"
    assert suggest("xyz", ("loss", "clip")) == "known names: loss, clip"
    assert suggest("xyz", map(str, range(20)), most=2) == "known names: 0, 1, ..."


def test_find_bundled_name_lists_no_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(**_: str) -> None:
        raise AssertionError("entry points were listed")

    monkeypatch.setattr("tbx_callbacks._extensions.entry_points", listed)
    assert METRIC_CLASSES.find("weight_norm") is WeightNorm
    assert WRITER_CLASSES.find("tensorboard") is TensorBoardWriter
    assert RULE_CLASSES.find("divergence") is RULES["divergence"]


def test_find_entry_point_loaded_when_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {
        "tbx_callbacks.metrics": {"kurtosis": "my_pkg.metrics:Kurtosis"},
        "tbx_callbacks.rules": {"too_high": "my_pkg.rules:TooHigh"},
        "tbx_callbacks.writers": {"lines": "my_pkg.writers:Lines"},
    }
    install(tmp_path, monkeypatch, groups)
    assert METRIC_CLASSES.names() == [*METRICS, "kurtosis"]
    assert WRITER_CLASSES.names() == [*WRITERS, "lines"]
    assert "my_pkg.metrics" not in sys.modules
    metric, rule, writer = METRIC_CLASSES.find("kurtosis"), RULE_CLASSES.find("too_high"), WRITER_CLASSES.find("lines")
    assert metric is sys.modules["my_pkg.metrics"].Kurtosis
    assert writer is sys.modules["my_pkg.writers"].Lines
    assert rule is not None
    assert create_rule("too_high", rule, threshold=3.0).id == "too_high"
    assert set(METRIC_CLASSES.all()) == {*METRICS, "kurtosis"}
    assert set(RULE_CLASSES.all()) == {*RULES, "too_high"}


def test_find_dotted_path_or_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    metric = METRIC_CLASSES.find("my_pkg.metrics.Kurtosis")
    assert metric is not None
    assert (metric.events, metric.needs, metric.cost) == (frozenset({"step"}), frozenset(), "none")
    assert METRIC_CLASSES.find("kurtosis") is None
    assert RULE_CLASSES.find("kurtosis") is None


def test_all_broken_entry_points_warned_once_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = {
        "gone": "my_pkg.nowhere:Kurtosis",
        "exits": "my_pkg.exits:Kurtosis",
        "no_class": "my_pkg.metrics:number",
        "plain": "my_pkg.metrics:Plain",
        "nonsense": "not a value",
        "ones": "my_pkg.metrics:Ones",
    }
    files = {**FILES, "exits": "import sys\nsys.exit(3)\n"}
    install(tmp_path, monkeypatch, {"tbx_callbacks.metrics": broken}, files=files)
    with caplog.at_level(logging.WARNING):
        assert set(METRIC_CLASSES.all()) == set(METRIC_CLASSES.all()) == {*METRICS, "ones"}
        assert METRIC_CLASSES.find("loss") is METRICS["loss"]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 5
    assert all(
        sum(f"metric entry point {name} is ignored: " in text for text in messages) == 1
        for name in set(broken) - {"ones"}
    )
    with pytest.raises(ExtensionError, match=r"its entry point my_pkg\.nowhere:Kurtosis cannot be imported: No module"):
        METRIC_CLASSES.find("gone")
    with pytest.raises(ExtensionError, match="it must be a frozen dataclass, got class Plain; add @dataclass"):
        METRIC_CLASSES.find("plain")


def test_entry_point_never_shadows_bundled_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path, monkeypatch, {"tbx_callbacks.metrics": {"loss": "my_pkg.metrics:Ones"}})
    assert METRIC_CLASSES.find("loss") is METRIC_CLASSES.all()["loss"] is METRICS["loss"]
    assert METRIC_CLASSES.names() == list(METRICS)
    (record,) = caplog.records
    assert (
        "metric entry point loss is ignored: my_pkg.metrics:Ones must not replace the bundled metric"
        in record.getMessage()
    )


def test_entry_points_same_name_first_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path / "b", monkeypatch, {"tbx_callbacks.metrics": {"it": "other.metrics:Ones"}}, package="other")
    install(tmp_path / "a", monkeypatch, {"tbx_callbacks.metrics": {"it": "my_pkg.metrics:Kurtosis"}})
    metric = METRIC_CLASSES.find("it")
    assert metric is not None
    assert metric.__name__ == "Kurtosis"
    assert [r.getMessage().count("other.metrics:Ones has the same name as my_pkg") for r in caplog.records] == [1]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("my_pkg.metrics.Kurtosiss", "module my_pkg.metrics has no Kurtosiss; did you mean 'Kurtosis'? known names in"),
        (
            "my_pkg.metricks.Kurtosis",
            "No module named 'my_pkg.metricks'; did you mean 'metrics'? known modules in my_pkg",
        ),
        ("my_pgk.metrics.Kurtosis", "No module named 'my_pgk'; run in its folder, or put that folder on PYTHONPATH"),
        ("my_pkg.broken.Kurtosis", "No module named 'not_installed'"),
        ("my_pkg.fails.Kurtosis", "KeyError('x')"),
        ("Kurtosis", "it names no module"),
        (".Kurtosis", "it names no module"),
        ("my_pkg..Kurtosis", "No module named 'my_pkg.'"),
        ("my_pkg.", "module my_pkg has no "),
    ],
)
def test_import_object_mistake_names_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, reason: str
) -> None:
    install(tmp_path, monkeypatch, files={**FILES, "broken": "import not_installed\n", "fails": "{}['x']\n"})
    with pytest.raises(ExtensionError) as raised:
        import_object(path)
    assert str(raised.value).startswith(reason)


CLASSES = """
    from dataclasses import dataclass
    from tbx_callbacks.metrics import Metric
    from tbx_callbacks.rules import Need, Rule

    @dataclass(frozen=True)
    class NoCall(Metric):
        tags = {"a": ""}

    @dataclass(frozen=True)
    class NoTags(Metric):
        def __call__(self, context): ...

    @dataclass
    class Thawed(Metric):
        tags = {"a": ""}
        def __call__(self, context): ...

    @dataclass(frozen=True)
    class NoDefault(Metric):
        bins: int
        tags = {"a": ""}
        def __call__(self, context): ...

    @dataclass(frozen=True)
    class WrongEvent(Metric):
        tags = {"a": ""}
        events = frozenset({"steps"})
        def __call__(self, context): ...

    @dataclass(frozen=True)
    class NoBase:
        tags = {"a": ""}
        def __call__(self, context): ...

    LOSS = (Need("the loss", "loss", ("train/loss",)),)

    @dataclass(frozen=True)
    class NoNeeds(Rule):
        source = "a test"
        def __call__(self, run): ...

    @dataclass(frozen=True)
    class NoSource(Rule):
        needs = LOSS
        def __call__(self, run): ...

    @dataclass(frozen=True)
    class Text(Rule):
        word: str = "a"
        needs, source = LOSS, "a test"
        def __call__(self, run): ...

    @dataclass(frozen=True)
    class TakenId(Rule):
        id, needs, source = "divergence", LOSS, "a test"
        def __call__(self, run): ...
"""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NoCall", "it must be callable, got class NoCall; define __call__ as in Metric"),
        ("NoTags", "tags must be a mapping of tag to unit, got None; for example"),
        ("Thawed", "it must be a frozen dataclass, got class Thawed; add @dataclass(frozen=True)"),
        ("NoDefault", "every option must have a default, but bins has none; add one"),
        ("WrongEvent", "events must be a frozenset of known names, got frozenset({'steps'}); did you mean 'step'?"),
        ("NoBase", "events must be a frozenset of names, got None; derive it from Metric"),
        ("LOSS", "it must be a class, got tuple (Need("),
    ],
)
def test_metric_class_mistake_names_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    install(tmp_path, monkeypatch, files={"__init__": "", "classes": CLASSES})
    with pytest.raises(ExtensionError) as raised:
        METRIC_CLASSES.find(f"my_pkg.classes.{name}")
    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NoNeeds", "needs must be a tuple of at least one Need, got None; name the series it reads"),
        ("NoSource", "source must be a string, got None; cite a paper or documentation"),
        ("Text", "every threshold must be a number, but word is 'a'"),
        ("TakenId", "id must differ from those of the bundled rules, got 'divergence'; leave it out to use the rule's"),
        ("NoCall", "needs must be a tuple"),
    ],
)
def test_rule_class_mistake_names_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    install(tmp_path, monkeypatch, files={"__init__": "", "classes": CLASSES})
    with pytest.raises(ExtensionError) as raised:
        RULE_CLASSES.find(f"my_pkg.classes.{name}")
    assert str(raised.value).startswith(reason)


def test_rule_id_differs_from_entry_point_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"__init__": "", "classes": CLASSES.replace('"divergence", LOSS', '"ratio_high", LOSS')}
    names = {"ratio_high": "my_pkg.classes:TakenId", "other": "my_pkg.classes:TakenId"}
    install(tmp_path, monkeypatch, {"tbx_callbacks.rules": names}, files=files)
    assert RULE_CLASSES.find("ratio_high") is not None
    with pytest.raises(ExtensionError, match="id must be 'other', as its entry point, got 'ratio_high'; leave it out"):
        RULE_CLASSES.find("other")


def test_rule_without_id_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    cls = RULE_CLASSES.find("my_pkg.rules.TooHigh")
    assert cls is not None
    rules = [create_rule(name, cls) for name in ("a", "b")]
    assert [rule.id for rule in rules] == ["a", "b"]
    assert rules[0] == rules[1]
