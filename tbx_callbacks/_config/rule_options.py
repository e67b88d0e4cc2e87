"""Parses `rules:`: thresholds of rules, and the responses to their findings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.keys import METRIC_SET_KEYS
from tbx_callbacks._config.yaml_files import read_yaml
from tbx_callbacks._suggestions import suggest
from tbx_callbacks.rules.base import Rule
from tbx_callbacks.rules.registry import RULES

ACTIONS = ("warn", "stop", "checkpoint")
RESPONSE_KEYS = ("action", "call")  # keys of a rule's response, beside its thresholds
NON_RULE_KEYS = ("every", "others")  # keys of `rules:` that are not rules


class RuleError(ValueError):
    """An invalid entry of `rules:`. The message starts with its location."""


@dataclass(frozen=True)
class Response:
    """The response to a finding: some of ACTIONS, and `package.function`, a function called with the finding."""

    actions: tuple[str, ...] = ("warn",)
    call: str = ""


def split_options(options: object, where: str) -> tuple[Response, dict[str, object]]:
    """Splits a rule's options (an action, several, or a mapping of both) into its response and its thresholds.

    Raises:
        RuleError: an unknown action, or another type.
    """
    if options is None:
        return Response(), {}
    if isinstance(options, (str, list)):
        return Response(_actions(options, where)), {}
    if not isinstance(options, Mapping):
        raise RuleError(f"{where} must be an action, a mapping of thresholds, or off, got {options!r}")
    call = options.get("call", "")
    if not isinstance(call, str) or (call == "" and "call" in options):
        raise RuleError(f"{where}.call must be the name of a function, as package.function, got {call!r}")
    thresholds = {str(key): value for key, value in options.items() if key not in RESPONSE_KEYS}
    return Response(_actions(options.get("action", "warn"), f"{where}.action"), call), thresholds


def _actions(raw: object, where: str) -> tuple[str, ...]:
    actions = [raw] if isinstance(raw, str) else raw
    if not isinstance(actions, list) or not actions:
        raise RuleError(
            f"{where} must be an action or a list of actions, got {raw!r}; {suggest('', ACTIONS, what='actions')}"
        )
    for action in actions:
        if action not in ACTIONS:
            known = suggest(str(action), ACTIONS, what="actions")
            raise RuleError(f"{where} must be a known action, got {action!r}; {known}")
    return tuple(action for action in ACTIONS if action in actions)


def load_rules(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Rule]:
    """Loads all rules, with the thresholds of a YAML file or of a mapping of the same structure.

    The file may be a metric set: only the thresholds in `rules` are read, not the responses.

    Raises:
        ConfigError: it is invalid. The message gives the location, the rule, the value and the nearest valid name.
    """
    if isinstance(source, Mapping):
        return _build(source, "a mapping")
    path = Path(source).expanduser()
    return _build(read_yaml(path, "a file of rules"), path.name)


def thresholds(name: str) -> dict[str, float]:
    """A rule's thresholds, with their defaults."""
    options: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(RULES[name])  # type: ignore[arg-type]
    return {option.name: getattr(RULES[name], option.name) for option in options}


def check_name(name: object) -> str:
    """Returns the name of a rule.

    Raises:
        RuleError: there is no rule of this name.
    """
    if not isinstance(name, str) or name not in RULES:
        known = suggest(str(name), RULES, what="rules", most=99)
        raise RuleError(f"rules must name known rules, got {name!r}; {known}")
    return name


def parse_rule(name: str, options: object) -> tuple[Rule, Response]:
    """Parses a rule with its thresholds, and the response to its findings.

    Raises:
        RuleError: an unknown threshold or action, or an invalid value.
    """
    where = f"rules.{name}"
    response, rule_options = split_options(options, where)
    try:
        parsed = options_model(name).model_validate(rule_options)
    except ValidationError as invalid:
        error = invalid.errors()[0]
        threshold = str(error["loc"][0])
        if error["type"] == "extra_forbidden":
            known = suggest(threshold, (*thresholds(name), *RESPONSE_KEYS), what="thresholds")
            raise RuleError(f"{where}.{threshold} must be a known threshold, got {threshold!r}; {known}") from None
        rule = error["msg"].removeprefix("Input should be ")
        raise RuleError(f"{where}.{threshold} must be {rule}, got {error['input']!r}") from None
    return RULES[name](**{key: getattr(parsed, key) for key in parsed.model_fields_set}), response


@cache
def options_model(name: str) -> type[BaseModel]:
    """The thresholds of a rule as a pydantic model, for validation and for the JSON Schema."""
    hints = get_type_hints(RULES[name])
    fields: dict[str, Any] = {
        threshold: (hints[threshold], Field(default, gt=0, allow_inf_nan=False if hints[threshold] is float else None))
        for threshold, default in thresholds(name).items()
    }
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **fields)


def _build(data: object, source: str) -> dict[str, Rule]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: a file of rules must be a mapping with the key rules, got {data!r}")
    for key in data:
        if key not in METRIC_SET_KEYS:
            raise ConfigError(f"{source}: {key} must be a known key; {suggest(str(key), ('rules',), what='keys')}")
    raw = data.get("rules") or {}
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source}: rules must be a mapping of a rule's name to its thresholds, got {raw!r}")
    rules = {name: cls() for name, cls in RULES.items()}
    try:
        for name, options in raw.items():
            if name in NON_RULE_KEYS:
                continue
            if options is False:
                del rules[check_name(name)]
            else:
                rules[name], _ = parse_rule(check_name(name), options)
    except RuleError as error:
        raise ConfigError(f"{source}: {error}") from error
    return rules
