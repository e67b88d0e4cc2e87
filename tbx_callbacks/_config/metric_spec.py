"""Parses one item of a metric set: a metric with its options, cadence and selection of parameters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tbx_callbacks._config.cadence import DOTTED_PATH, Cadence, CadenceOption
from tbx_callbacks._config.validation import (
    OFF,
    Model,
    Must,
    Parsed,
    SpecError,
    create,
    find_class,
    located,
    model_of,
    name_and_options,
    option_fields,
    parsed_list,
    plain_off,
    short,
    validate,
)
from tbx_callbacks._extensions import suggest
from tbx_callbacks._model.parameters import BY, Select
from tbx_callbacks._text import label, words
from tbx_callbacks.metrics.base import Metric
from tbx_callbacks.metrics.registry import METRIC_CLASSES
from tbx_callbacks.tags import check_tag


@dataclass(frozen=True)
class MetricSpec:
    """A metric, its cadence (`every`; None: the set's default), and its selection of parameters."""

    name: str
    metric: Metric
    every: Cadence | None = None
    select: Select | None = None

    def key(self) -> tuple[object, ...]:
        """Items with equal keys would write the same tags."""
        return (type(self.metric), *(self.select.key() if self.select else ()))


def parse_metric_spec(name: object, options: object = None) -> MetricSpec:
    """Builds an item from its name and options.

    Raises:
        SpecError: an unknown name or option, or an invalid value.
    """
    cls = find_class(name, METRIC_CLASSES, "a known metric")
    with located(f".{label(name)}"):
        if not isinstance(options, Mapping | None):
            raise SpecError(f" must be a mapping of options, or off, got {short(options)}")
        options = options or {}
        if "every" in options and "step" not in cls.events:
            every = short(options["every"])
            raise SpecError(f".every must be left out, got {every}: this metric is written when the trainer logs")
        settings = validate(metric_model(str(name), cls), options)
        every = settings.pop("every", None)
        selection = {key: settings.pop(key) for key in ("by", "include", "exclude") if cls.select and key in settings}
        select = dataclasses.replace(cls.select, **selection) if cls.select else None
        return MetricSpec(str(name), create(cls, settings), every, select)


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:  # too deep, or with too large a number
        raise SpecError(f" must be a valid regular expression, got {short(value)}: {words(error)}") from error
    return value


def _by(value: object) -> str | dict[str, str]:
    if isinstance(value, str) and value in BY:
        return value
    if not isinstance(value, dict) or not all(isinstance(text, str) for item in value.items() for text in item):
        nearest = f"; {suggest(label(value), BY, what='groupings')}" if isinstance(value, str) else ""
        raise SpecError(
            f" must be one of {', '.join(BY)} or a mapping of group name to regex, got {short(value)}{nearest}"
        )
    if not value:
        raise SpecError(" must name at least one group, got an empty mapping")
    for group, regex in value.items():
        with located(f".{label(group)}"):
            _regex(regex)
        try:
            check_tag(group)
        except ValueError as error:
            raise SpecError(f": {words(error)}") from error
    return value


def _by_schema() -> dict[str, Any]:
    regexes = {"type": "object", "additionalProperties": {"type": "string"}}
    return {"description": "Grouping, or a mapping of group name to regex.", "anyOf": [{"enum": list(BY)}, regexes]}


_By = Annotated[Any, Parsed(_by, _by_schema)]
_Regex = Annotated[Annotated[str, AfterValidator(_regex)] | None, Must("a regular expression (a string)")]


@cache
def metric_model(name: str, cls: type[Metric]) -> type[Model]:
    """The options of a metric."""
    further: dict[str, Any] = {}
    if "step" in cls.events:
        further["every"] = (CadenceOption | None, None)
    if cls.select is not None:
        further["by"] = (_By, cls.select.by)
        keeps, removes = (f"Regex; {verb} parameters whose name matches." for verb in ("keeps only", "removes"))
        further["include"] = (_Regex, Field(cls.select.include, description=keeps))
        further["exclude"] = (_Regex, Field(cls.select.exclude, description=removes))
    return model_of(name, {**further, **option_fields(cls)})


MetricEntry = tuple[MetricSpec, bool] | None
"""A metric, and whether it is off; None if it is not checked."""


def _entry(entry: object) -> MetricEntry:
    name, options = name_and_options(entry, "metric")
    if METRIC_CLASSES.skips(name):
        return None
    options = plain_off(options)
    return parse_metric_spec(name, None if options is False else options), options is False


def _entry_schema() -> dict[str, Any]:
    metrics = METRIC_CLASSES.all()
    forms: list[dict[str, Any]] = [
        {"properties": {name: _optional(metric_model(name, metric).model_json_schema())}, "required": [name]}
        for name, metric in metrics.items()
    ]
    forms.append({"patternProperties": {DOTTED_PATH: _optional({"type": "object"})}, "minProperties": 1})
    mappings = [{"type": "object", "maxProperties": 1, "additionalProperties": False, **form} for form in forms]
    return {"anyOf": [{"enum": list(metrics)}, {"type": "string", "pattern": DOTTED_PATH}, *mappings]}


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, OFF, {"type": "null"}]}


MetricEntries = Annotated[Sequence[MetricEntry], parsed_list(_entry, _entry_schema, "a list of metrics")]
"""`metrics`: names, or one name with its options, and whether it is off; None for what is not checked."""
