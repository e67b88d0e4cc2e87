"""Parses `rules:` of a metric set: the rules that are evaluated during the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from tbx_callbacks._config.cadence import DOTTED_PATH, Cadence, CadenceOption
from tbx_callbacks._config.rule_options import (
    ACTION_SCHEMA,
    NON_RULE_KEYS,
    RESPONSE_MODEL,
    Response,
    parse_response,
    parse_rule,
    rule_model,
)
from tbx_callbacks._config.validation import Model, SpecError, located, short, validate
from tbx_callbacks._extensions import ExtensionError, import_object
from tbx_callbacks._suggestions import suggest
from tbx_callbacks.rules import Finding, Rule, default_rules
from tbx_callbacks.rules.registry import RULES, all_rules, rule_names

Call = Callable[[Finding], object]


@dataclass(frozen=True)
class LiveRule:
    """A rule, and the response to its findings."""

    rule: Rule
    response: Response


@dataclass(frozen=True)
class LiveRuleConfig:
    """The rules that are evaluated during the training.

    `named` are the rules that a set names, with None for a disabled one. `others` is the response to findings of all
    other rules; None disables those. `every` is the cadence; None means the set's cadence.
    """

    named: tuple[tuple[str, LiveRule | None], ...] = ()
    others: Response | None = None
    every: Cadence | None = None

    def active_rules(self) -> dict[str, LiveRule]:
        """The enabled rules, by name."""
        named = dict(self.named)
        ids = {entry.rule.id for entry in named.values() if entry is not None}
        rest = {} if self.others is None else {n: rule for n, rule in default_rules().items() if rule.id not in ids}
        entries = {**{name: LiveRule(rule, self.others or Response()) for name, rule in rest.items()}, **named}
        ordered = dict.fromkeys((*RULES, *entries))
        return {name: entry for name in ordered if (entry := entries.get(name)) is not None}

    def describe(self) -> str:
        """The rules and their responses, on one line."""
        responses = {name: entry.response for name, entry in self.active_rules().items()}
        actions = {
            name: [*response.actions, *([response.call] if response.call else [])]
            for name, response in responses.items()
        }
        return ", ".join(f"{name} ({', '.join(texts)})" for name, texts in actions.items()) or "none"

    @property
    def may_act(self) -> bool:
        """Whether a rule may stop the training or request a checkpoint. All ranks then wait for rank 0."""
        return any({"stop", "checkpoint"} & set(entry.response.actions) for entry in self.active_rules().values())


NO_LIVE_RULES = LiveRuleConfig()


class _RulesCadence(Model):
    every: CadenceOption = "log"


def parse_live_rules(raw: object, inherited: LiveRuleConfig = NO_LIVE_RULES) -> LiveRuleConfig:
    """Parses the rules of a set, on top of those of the set that it extends.

    Raises:
        SpecError: an unknown rule, threshold, action or cadence, or a function that cannot be imported.
    """
    if raw is None:
        return inherited
    if raw is False:
        return NO_LIVE_RULES
    if not isinstance(raw, Mapping):
        known_rules = suggest("", rule_names(), what="rules", most=99)
        raise SpecError(
            f" must be a mapping of a rule's name to an action or thresholds, or off, got {short(raw)}; {known_rules}"
        )
    named = {name: _live_rule(name, options) for name, options in raw.items() if name not in NON_RULE_KEYS}
    ids = [entry.rule.id for entry in named.values() if entry is not None]
    if repeated := next((rule_id for rule_id in ids if ids.count(rule_id) > 1), None):
        names = [name for name, entry in named.items() if entry is not None and entry.rule.id == repeated]
        raise SpecError(f" must name every rule once, but {' and '.join(names)} are the rule {repeated}; remove one")
    kept = {
        name: entry for name, entry in inherited.named if entry is None or entry.rule.id not in ids or name in named
    }
    live = replace(inherited, named=tuple({**kept, **named}.items()))
    if "others" in raw:
        live = replace(live, others=_parse_others(raw["others"]))
    return replace(live, **validate(_RulesCadence, {key: raw[key] for key in raw if key == "every"}))


def function_of(path: str, where: str = "call") -> Call:
    """Imports the function named `package.function`.

    Raises:
        SpecError: it cannot be imported, or is not a function.
    """
    if "." not in path:
        raise SpecError(f"{where} must name a function, as package.function, got {path!r}: it names no module")
    try:
        function = import_object(path)
    except ExtensionError as error:
        raise SpecError(f"{where} must name a function that can be imported, got {path!r}: {error}") from error
    if not callable(function):
        reason = f"it is a {type(function).__name__}"
        raise SpecError(f"{where} must name a function, as package.function, got {path!r}: {reason}")
    return function  # type: ignore[no-any-return]


def _live_rule(name: str, options: object) -> LiveRule | None:
    rule, response = parse_rule(name, None if options is False else options)
    if response.call:
        function_of(response.call, f".{name}.call")
    return None if options is False else LiveRule(rule, response)


def _parse_others(options: object) -> Response | None:
    if options is False:
        return None
    if isinstance(options, Mapping) and not set(options) <= set(RESPONSE_MODEL.model_fields):
        raise SpecError(f".others must be an action, or off, got {short(options)}; name a rule to set its thresholds")
    with located(".others"):
        response = parse_response(options)
    if response.call:
        function_of(response.call, ".others.call")
    return response


class LiveRulesSchema:
    """Annotates `rules` with its JSON Schema."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        off: list[dict[str, Any]] = [{"const": False}, {"type": "null"}]
        models = {"others": RESPONSE_MODEL, **{name: rule_model(name, cls) for name, cls in all_rules().items()}}
        rules = {name: {"anyOf": [*off, ACTION_SCHEMA, model.model_json_schema()]} for name, model in models.items()}
        return {
            "anyOf": [
                *off,
                {
                    "type": "object",
                    "description": "Rules that are evaluated during the training.",
                    "additionalProperties": False,
                    "properties": {**_RulesCadence.model_json_schema()["properties"], **rules},
                    "patternProperties": {DOTTED_PATH: {"anyOf": [*off, ACTION_SCHEMA, {"type": "object"}]}},
                },
            ]
        }
