"""Builds the tables of metric sets and metrics that the command line prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from tbx_callbacks._config.bundled import bundled_sets
from tbx_callbacks._config.cadence import Cadence
from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.metric_set import Config, load_config
from tbx_callbacks._config.metric_spec import MetricSpec, metric_model
from tbx_callbacks._extensions import ExtensionError, suggest
from tbx_callbacks._text import short, words
from tbx_callbacks.cli.outputs import header
from tbx_callbacks.cli.terminal import full_table
from tbx_callbacks.metrics.base import Metric
from tbx_callbacks.metrics.registry import METRIC_CLASSES


def sets_table() -> Table:
    """A table of the bundled sets."""
    table = full_table("set", "description", "metrics")
    for known in sets_as_json()["sets"]:
        table.add_row(known["name"], known["description"], ", ".join(known["metrics"]))
    return table


def sets_as_json() -> dict[str, Any]:
    """The bundled sets as plain values."""
    found = []
    for name, path in bundled_sets().items():
        heading = path.read_text(encoding="utf-8").splitlines()[0]
        metrics = list(dict.fromkeys(item.name for item in load_config(name).items))
        found.append({"name": name, "description": heading.lstrip("# "), "metrics": metrics})
    return {**header("sets"), "sets": found}


def metric_summaries() -> dict[str, str]:
    """What each metric measures, in a sentence; those of other packages included."""
    return {name: _paragraphs(cls)[0] for name, cls in METRIC_CLASSES.all().items()}


def metrics_as_json(name: str | None = None) -> dict[str, Any]:
    """All metrics, or one, as plain values.

    Raises:
        ConfigError: there is no such metric.
    """
    known = METRIC_CLASSES.all() if name is None else {name: _class_of(name)}
    metrics = [
        {
            "name": metric,
            "description": _paragraphs(cls)[0],
            "tags": {tag: unit or None for tag, unit in cls.tags.items()},
            "options": _options(metric, cls),
            "cost": cls.cost,
        }
        for metric, cls in known.items()
    ]
    return {**header("metrics"), "metrics": metrics}


def metric_details(name: str) -> str:
    """All about one metric, as text.

    Args:
        name: the name of a metric, or the dotted path of its class.

    Raises:
        ConfigError: there is no such metric.
    """
    cls = _class_of(name)
    options = _options(name, cls)
    units = {tag: unit or "no unit" for tag, unit in cls.tags.items()}
    parts = [name, *_paragraphs(cls), "Tags and units", _columns(units), "Options and defaults", _columns(options)]
    return "\n\n".join([*parts, f"Cost: {cls.cost}"])


def _class_of(name: str) -> type[Metric]:
    try:
        cls = METRIC_CLASSES.find(name)
    except ExtensionError as error:
        raise ConfigError(f"NAME must be a metric, got {short(name)}: {error}") from error
    if cls is None:
        raise ConfigError(
            f"NAME must be a metric, got {short(name)}; {suggest(name, METRIC_CLASSES.names(), what='metrics')}"
        )
    return cls


def _options(name: str, cls: type[Metric]) -> dict[str, str]:
    """The options of a metric with their defaults, as text."""
    return {
        option: _default(option, field.get_default(call_default_factory=True))
        for option, field in metric_model(name, cls).model_fields.items()
    }


def _paragraphs(cls: type) -> list[str]:
    """The paragraphs of a class's docstring, without its line breaks."""
    return [" ".join(part.split()) for part in (cls.__doc__ or "").strip().split("\n\n")]


def _columns(cells: Mapping[str, str]) -> str:
    width = max(map(len, cells), default=0)
    return "\n".join(f"  {name:{width}}  {value}" for name, value in cells.items()) or "  none"


def check_as_json(file: str) -> dict[str, Any]:
    """The metrics of a set and a summary of its other settings, as plain values.

    Raises:
        ConfigError: the set is invalid.
    """
    config = load_config(file)
    metrics = [
        {
            "name": item.name,
            "every": _cadence(item, config),
            "parameters": _parameters(item),
            "tags": list(item.metric.tags),
        }
        for item in config.items
    ]
    return {**header("check"), "metrics": metrics, "summary": _summary(config)}


def check_table(file: str) -> tuple[Table, str]:
    """A table of the metrics of a set, and a summary of its other settings.

    Raises:
        ConfigError: the set is invalid.
    """
    config = load_config(file)
    table = full_table("metric", "every", "parameters", "tags")
    for item in config.items:
        table.add_row(*map(escape, (item.name, _cadence(item, config), _parameters(item), "\n".join(item.metric.tags))))
    return table, escape(_summary(config))


def _summary(config: Config) -> str:
    writers = ", ".join(spec.name for spec in config.writers)
    return (
        f"{config.source}: {len(config.items)} metrics, every: {_text(config.every)}, strict: {config.strict},"
        f" rules: {config.live.describe()}, writers: {writers}{_kept(config)}"
    )


def _kept(config: Config) -> str:
    """Names the inherited metrics that stay beside those that the set adds."""
    kept = ", ".join(f"{item.name} ({_parameters(item)})" for item in config.kept)
    return f"\ninherited and kept: {kept}; `- {config.kept[0].name}: off` above an entry removes them" if kept else ""


def _cadence(item: MetricSpec, config: Config) -> str:
    return _text(item.every or config.every) if "step" in item.metric.events else "when the trainer logs"


def _text(cadence: Cadence) -> str:
    return words(cadence).removeprefix("every ")


def _parameters(item: MetricSpec) -> str:
    if item.select is None:
        return "-"
    parts = [f"by {item.select.by}"]
    parts += [f"include {item.select.include}"] if item.select.include else []
    parts += [f"exclude {item.select.exclude}"] if item.select.exclude else []
    return ", ".join(parts)


def _default(option: str, value: object) -> str:
    return ("the set's" if option == "every" else "none") if value is None else words(value)
