"""Parses one item of a metric set: a metric with its options, cadence and selection of parameters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from tbx_callbacks._model.parameters import BY, Select
from tbx_callbacks._suggestions import suggest
from tbx_callbacks.metrics.base import Metric
from tbx_callbacks.metrics.registry import METRICS
from tbx_callbacks.tags import check_tag

Cadence = int | Literal["log"]


class MetricSpecError(ValueError):
    """An invalid item. The message starts with its location in the set."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric, its cadence (`every`; None: the set's default), and its selection of parameters."""

    name: str
    metric: Metric
    every: Cadence | None = None
    select: Select | None = None

    def key(self) -> tuple[object, ...]:
        """Items with equal keys would write the same tags."""
        return (self.name, *(self.select.key() if self.select else ()))


def parse_metric_spec(name: object, options: object, where: str) -> MetricSpec:
    """Builds an item from its name and options.

    Raises:
        MetricSpecError: an unknown name or option, or an invalid value.
    """
    if not isinstance(name, str) or name not in METRICS:
        raise MetricSpecError(
            f"{where} must name a known metric, got {name!r}; {suggest(str(name), METRICS, what='metrics', most=99)}"
        )
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise MetricSpecError(f"{where}.{name} must be a mapping of options, or off, got {options!r}")
    cls = METRICS[name]
    try:
        parsed = options_model(name).model_validate(dict(options))
    except ValidationError as error:
        raise MetricSpecError(_explain(error.errors()[0], f"{where}.{name}", options_model(name))) from error
    settings = {key: getattr(parsed, key) for key in parsed.model_fields_set}
    every = settings.pop("every", None)
    if every is not None:
        check_cadence(f"{where}.{name}.every", every)
    select = None
    if cls.select is not None:
        selection = {key: settings.pop(key) for key in _SELECT if key in settings}
        select = dataclasses.replace(cls.select, **selection)
        _check_select(select, f"{where}.{name}")
    try:
        return MetricSpec(name, cls(**settings), every, select)
    except ValueError as error:
        raise MetricSpecError(f"{where}.{name}: {error}") from error


def check_cadence(where: str, value: object) -> Cadence:
    """Returns a valid cadence.

    Raises:
        MetricSpecError: neither a positive number of steps nor `log`.
    """
    if value == "log":
        return "log"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise MetricSpecError(f'{where} must be a positive number of optimizer steps or "log", got {value!r}')


_SELECT = ("by", "include", "exclude")


@cache
def options_model(name: str) -> type[BaseModel]:
    """The options of a metric as a pydantic model, for validation and for the JSON Schema."""
    cls = METRICS[name]
    hints = get_type_hints(cls)
    fields: dict[str, Any] = {}
    if "step" in cls.events:
        fields["every"] = (Cadence | None, Field(None, description="Optimizer steps between points, or log."))
    if cls.select is not None:
        by = Literal["total", "layer", "module", "parameter"] | dict[str, str]
        fields["by"] = (by, Field(cls.select.by, description="Grouping, or a mapping of group name to regex."))
        fields["include"] = (str | None, Field(None, description="Regex; keeps only parameters whose name matches."))
        fields["exclude"] = (str | None, Field(None, description="Regex; removes parameters whose name matches."))
    for option in dataclasses.fields(cls):  # type: ignore[arg-type]
        fields[option.name] = (hints[option.name], option.default)
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **fields)


def _check_select(select: Select, where: str) -> None:
    by = {} if isinstance(select.by, str) else select.by
    if not isinstance(select.by, str) and not by:
        raise MetricSpecError(f"{where}.by must name at least one group, got an empty mapping")
    regexes = {
        "include": select.include,
        "exclude": select.exclude,
        **{f"by.{group}": regex for group, regex in by.items()},
    }
    for key, regex in regexes.items():
        try:
            re.compile(regex or "")
        except re.error as error:
            raise MetricSpecError(
                f"{where}.{key} must be a valid regular expression, got {regex!r}: {error}"
            ) from error
    for group in by:
        try:
            check_tag(group)
        except ValueError as error:
            raise MetricSpecError(f"{where}.by: {error}") from error


def _explain(error: ErrorDetails, where: str, model: type[BaseModel]) -> str:
    option = str(error["loc"][0])
    value = error["input"]
    if error["type"] == "extra_forbidden" and option == "every":
        return f"{where}.every must be left out, got {value!r}: this metric is written when the trainer logs"
    if error["type"] == "extra_forbidden":
        known = suggest(option, model.model_fields, what="options")
        return f"{where}.{option} must be a known option, got {option!r}; {known}"
    if option == "every":
        rule = 'a positive number of optimizer steps or "log"'
    elif option == "by":
        rule = f"one of {', '.join(BY)} or a mapping of group name to regex"
        if isinstance(value, str):
            return f"{where}.by must be {rule}, got {value!r}; {suggest(value, BY, what='groupings')}"
    elif option in _SELECT:
        rule = "a regular expression (a string)"
    else:
        rule = error["msg"].removeprefix("Input should be ")
    return f"{where}.{option} must be {rule}, got {value!r}"
