"""Parses `rules:` of a metric set: the rules that are evaluated during the training."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tbx_callbacks._config.metric_spec import Cadence, check_cadence
from tbx_callbacks._config.rule_options import NON_RULE_KEYS, Response, RuleError, check_name, parse_rule, split_options
from tbx_callbacks._suggestions import suggest
from tbx_callbacks.rules import RULES, Finding, Rule

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
        rest = {} if self.others is None else {name: LiveRule(cls(), self.others) for name, cls in RULES.items()}
        return {
            name: entry for name in RULES if (entry := named[name] if name in named else rest.get(name)) is not None
        }

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


def parse_live_rules(raw: object, inherited: LiveRuleConfig = NO_LIVE_RULES) -> LiveRuleConfig:
    """Parses the rules of a set, on top of those of the set that it extends.

    Raises:
        RuleError: an unknown rule, threshold or action, or a function that cannot be imported.
        MetricSpecError: `every` is not a cadence.
    """
    if raw is None:
        return inherited
    if raw is False:
        return NO_LIVE_RULES
    if not isinstance(raw, Mapping):
        known_rules = suggest("", RULES, what="rules", most=99)
        raise RuleError(
            f"rules must be a mapping of a rule's name to an action or thresholds, or off, got {raw!r}; {known_rules}"
        )
    named = dict(inherited.named)
    for name, options in raw.items():
        if name not in NON_RULE_KEYS:
            rule_name = check_name(name)
            named[rule_name] = None if options is False else _live_rule(rule_name, options)
    live = replace(inherited, named=tuple(named.items()))
    if "others" in raw:
        live = replace(live, others=_parse_others(raw["others"]))
    if "every" in raw:
        live = replace(live, every=check_cadence("rules.every", raw["every"]))
    return live


def function_of(path: str, where: str = "call") -> Call:
    """Imports the function named `package.function`.

    Raises:
        RuleError: it cannot be imported, or is not a function.
    """
    module, _, name = path.rpartition(".")
    try:
        function: Any = getattr(importlib.import_module(module), name) if module else None
    except Exception as error:  # importing a module may raise anything
        raise RuleError(f"{where} must name a function that can be imported, got {path!r}: {error}") from error
    if not callable(function):
        reason = "it names no module" if not module else f"it is a {type(function).__name__}"
        raise RuleError(f"{where} must name a function, as package.function, got {path!r}: {reason}")
    return function  # type: ignore[no-any-return]


def _live_rule(name: str, options: object) -> LiveRule:
    rule, response = parse_rule(name, options)
    if response.call:
        function_of(response.call, f"rules.{name}.call")
    return LiveRule(rule, response)


def _parse_others(options: object) -> Response | None:
    if options is False:
        return None
    response, rest = split_options(options, "rules.others")
    if rest:
        raise RuleError(f"rules.others must be an action, or off, got {options!r}; name a rule to set its thresholds")
    if response.call:
        function_of(response.call, "rules.others.call")
    return response
