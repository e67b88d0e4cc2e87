"""Thresholds of rules from YAML: `rules:`, a mapping of a rule's name to its thresholds, or `off`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from tbx_callbacks.config import read_yaml
from tbx_callbacks.diagnosis.protocol import Rule
from tbx_callbacks.diagnosis.rules import RULES
from tbx_callbacks.errors import ConfigError
from tbx_callbacks.names import suggest

_OF_A_METRIC_SET = ("extends", "every", "strict", "metrics")


def load_rules(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Rule]:
    """Every rule, with the thresholds of a YAML file, or a mapping of the same structure, in place of its own.

    The file may be a metric set: only `rules` is read.

    Raises:
        ConfigError: it cannot be used; the message says where, the rule, the value and the nearest valid name.
    """
    if isinstance(source, Mapping):
        return _build(source, "a mapping")
    path = Path(source).expanduser()
    return _build(read_yaml(path, "a file of rules"), path.name)


def thresholds(name: str) -> dict[str, float]:
    """A rule's thresholds with their defaults."""
    options: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(RULES[name])  # type: ignore[arg-type]
    return {option.name: getattr(RULES[name], option.name) for option in options}


def _build(data: object, source: str) -> dict[str, Rule]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: a file of rules must be a mapping with the key rules, got {data!r}")
    for key in data:
        if key not in ("rules", *_OF_A_METRIC_SET):
            raise ConfigError(f"{source}: {key} must be a known key; {suggest(str(key), ('rules',), what='keys')}")
    given = data.get("rules") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{source}: rules must be a mapping of a rule's name to its thresholds, got {given!r}")
    rules = {name: cls() for name, cls in RULES.items()}
    for name, options in given.items():
        if name not in RULES:
            known = suggest(str(name), RULES, what="rules", most=99)
            raise ConfigError(f"{source}: rules must name known rules, got {name!r}; {known}")
        if options is False:
            del rules[name]
        else:
            rules[name] = _rule(name, options, f"{source}: rules.{name}")
    return rules


def _rule(name: str, options: object, where: str) -> Rule:
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"{where} must be a mapping of thresholds, or off, got {options!r}")
    try:
        parsed = _model(name).model_validate(dict(options or {}))
    except ValidationError as invalid:
        error = invalid.errors()[0]
        threshold = str(error["loc"][0])
        if error["type"] == "extra_forbidden":
            known = suggest(threshold, thresholds(name), what="thresholds")
            raise ConfigError(f"{where}.{threshold} must be a known threshold, got {threshold!r}; {known}") from None
        rule = error["msg"].removeprefix("Input should be ")
        raise ConfigError(f"{where}.{threshold} must be {rule}, got {error['input']!r}") from None
    return RULES[name](**{key: getattr(parsed, key) for key in parsed.model_fields_set})


@cache
def _model(name: str) -> type[BaseModel]:
    hints = get_type_hints(RULES[name])
    fields: dict[str, Any] = {
        threshold: (hints[threshold], Field(default, gt=0, allow_inf_nan=False if hints[threshold] is float else None))
        for threshold, default in thresholds(name).items()
    }
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **fields)
