"""Parses `rules:`: thresholds of rules, and the responses to their findings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.validation import (
    Model,
    Must,
    SpecError,
    find_class,
    located,
    model_of,
    option_fields,
    short,
    validate,
)
from tbx_callbacks._config.yaml_files import read_yaml
from tbx_callbacks._suggestions import suggest
from tbx_callbacks.rules.base import Rule
from tbx_callbacks.rules.diagnose import default_rules
from tbx_callbacks.rules.registry import RULES, create_rule, find_rule, rule_names

METRIC_SET_KEYS = ("extends", "every", "strict", "overhead_budget", "axis", "rules", "writers", "metrics")
ACTIONS = ("warn", "stop", "checkpoint")
NON_RULE_KEYS = ("every", "others")  # keys of `rules:` that are not rules


@dataclass(frozen=True)
class Response:
    """The response to a finding: some of ACTIONS, and `package.function`, a function called with the finding."""

    actions: tuple[str, ...] = ("warn",)
    call: str = ""


def _actions(raw: object) -> tuple[str, ...]:
    actions = [raw] if isinstance(raw, str) else raw
    if not isinstance(actions, list) or not actions:
        raise SpecError(
            f" must be an action or a list of actions, got {short(raw)}; {suggest('', ACTIONS, what='actions')}"
        )
    for action in actions:
        if action not in ACTIONS:
            nearest = suggest(str(action), ACTIONS, what="actions")
            raise SpecError(f" must be a known action, got {action!r}; {nearest}")
    return tuple(action for action in ACTIONS if action in actions)


ACTION_SCHEMA = {
    "description": "Response to a finding, once: log it (warn), stop the training, save a checkpoint.",
    "anyOf": [{"enum": list(ACTIONS)}, {"type": "array", "items": {"enum": list(ACTIONS)}, "minItems": 1}],
}


_RESPONSE: dict[str, Any] = {
    "action": (Annotated[tuple[str, ...], PlainValidator(_actions), WithJsonSchema(ACTION_SCHEMA)], ("warn",)),
    "call": (
        Annotated[str, Field(min_length=1), Must("the name of a function, as package.function")],
        Field(
            "",
            description="A function called with the finding, as package.function.",
            json_schema_extra={"pattern": r"\."},
        ),
    ),
}
RESPONSE_MODEL = model_of("others", _RESPONSE)


@cache
def rule_model(name: str, cls: type[Rule]) -> type[Model]:
    """The thresholds of a rule, and the options of the response to its findings."""
    limited = {
        threshold: (
            hint,
            Field(default, gt=0 if default > 0 else None, allow_inf_nan=False if hint is float else None),
        )
        for threshold, (hint, default) in option_fields(cls).items()
    }
    return model_of(name, {**limited, **_RESPONSE})


def parse_response(options: object) -> Response:
    """Parses a response without thresholds: an action, several, or a mapping.

    Raises:
        SpecError: an unknown action, or another type.
    """
    return _split(options, RESPONSE_MODEL)[0]


def parse_rule(name: object, options: object) -> tuple[Rule, Response]:
    """Parses a rule with its thresholds, and the response to its findings.

    Raises:
        SpecError: an unknown rule, threshold or action, or an invalid value.
    """
    cls = find_class(name, find_rule, rule_names, "rule", "known rules")
    with located(f".{name}"):
        response, thresholds = _split(options, rule_model(str(name), cls))
    return create_rule(str(name), cls, **thresholds), response


def _split(options: object, model: type[Model]) -> tuple[Response, dict[str, Any]]:
    if isinstance(options, (str, list)):
        return Response(_actions(options)), {}
    if not isinstance(options, Mapping | None):
        raise SpecError(f" must be an action, a mapping of thresholds, or off, got {short(options)}")
    settings = validate(model, options or {}, "threshold")
    defaults = Response()
    return Response(settings.pop("action", defaults.actions), settings.pop("call", defaults.call)), settings


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
    """A bundled rule's thresholds, with their defaults."""
    return {threshold: default for threshold, (_, default) in option_fields(RULES[name]).items()}


def _build(data: object, source: str) -> dict[str, Rule]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: a file of rules must be a mapping with the key rules, got {data!r}")
    for key in data:
        if key not in METRIC_SET_KEYS:
            raise ConfigError(f"{source}: {key} must be a known key; {suggest(str(key), ('rules',), what='keys')}")
    raw = data.get("rules") or {}
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source}: rules must be a mapping of a rule's name to its thresholds, got {raw!r}")
    rules = default_rules()
    try:
        for name, options in raw.items():
            if name in NON_RULE_KEYS:
                continue
            rule, _ = parse_rule(name, None if options is False else options)
            rules = {other: kept for other, kept in rules.items() if other == name or kept.id != rule.id}
            rules[name] = rule
            if options is False:
                del rules[name]
    except SpecError as error:
        raise ConfigError(f"{source}: rules{error}") from error
    return rules
