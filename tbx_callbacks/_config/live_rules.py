"""Which rules watch a run, from `rules:` of a metric set."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tbx_callbacks._config.errors import suggest
from tbx_callbacks._config.metric_spec import Cadence, check_cadence
from tbx_callbacks._config.rules import NOT_RULES, Response, RuleError, check_name, parse_rule, split_options
from tbx_callbacks.rules import RULES, Finding, Rule

Call = Callable[[Finding], object]


@dataclass(frozen=True)
class LiveRule:
    """A rule and what is done about what it finds."""

    rule: Rule
    response: Response


@dataclass(frozen=True)
class LiveRuleConfig:
    """The rules that are asked while the run trains.

    `named` are those that a set names, with None for one that it switches off; `others` is done about what all others
    find, which are not asked when it is None. `every` is the cadence; None: the set's.
    """

    named: tuple[tuple[str, LiveRule | None], ...] = ()
    others: Response | None = None
    every: Cadence | None = None

    def active_rules(self) -> dict[str, LiveRule]:
        """The rules that are asked, by name."""
        named = dict(self.named)
        rest = {} if self.others is None else {name: LiveRule(cls(), self.others) for name, cls in RULES.items()}
        return {name: one for name in RULES if (one := named[name] if name in named else rest.get(name)) is not None}

    def describe(self) -> str:
        """The rules and what is done, in a line."""
        responses = {name: one.response for name, one in self.active_rules().items()}
        done = {name: [*said.actions, *([said.call] if said.call else [])] for name, said in responses.items()}
        return ", ".join(f"{name} ({', '.join(what)})" for name, what in done.items()) or "none"

    @property
    def may_act(self) -> bool:
        """Whether a rule may stop the training or ask for a checkpoint: then all ranks wait for rank 0's verdict."""
        return any({"stop", "checkpoint"} & set(one.response.actions) for one in self.active_rules().values())


NO_LIVE_RULES = LiveRuleConfig()


def parse_live_rules(given: object, inherited: LiveRuleConfig = NO_LIVE_RULES) -> LiveRuleConfig:
    """The rules of a set, on top of those that it extends.

    Raises:
        RuleError: an unknown rule, threshold or action, or a function that cannot be imported.
        ItemError: `every` is no cadence.
    """
    if given is None:
        return inherited
    if given is False:
        return NO_LIVE_RULES
    if not isinstance(given, Mapping):
        names = suggest("", RULES, what="rules", most=99)
        raise RuleError(
            f"rules must be a mapping of a rule's name to an action or thresholds, or off, got {given!r}; {names}"
        )
    named = dict(inherited.named)
    for name, options in given.items():
        if name not in NOT_RULES:
            known = check_name(name)
            named[known] = None if options is False else _watched(known, options)
    live = replace(inherited, named=tuple(named.items()))
    if "others" in given:
        live = replace(live, others=_others(given["others"]))
    if "every" in given:
        live = replace(live, every=check_cadence("rules.every", given["every"]))
    return live


def function_of(path: str, where: str = "call") -> Call:
    """The function that `package.function` names.

    Raises:
        RuleError: it cannot be imported, or is no function.
    """
    module, _, name = path.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name) if module else None
    except Exception as error:  # whatever the module does when it is imported
        raise RuleError(f"{where} must name a function that can be imported, got {path!r}: {error}") from error
    if not callable(found):
        reason = "it names no module" if not module else f"it is a {type(found).__name__}"
        raise RuleError(f"{where} must name a function, as package.function, got {path!r}: {reason}")
    return found  # type: ignore[no-any-return]


def _watched(name: str, options: object) -> LiveRule:
    rule, response = parse_rule(name, options)
    if response.call:
        function_of(response.call, f"rules.{name}.call")
    return LiveRule(rule, response)


def _others(options: object) -> Response | None:
    if options is False:
        return None
    response, rest = split_options(options, "rules.others")
    if rest:
        raise RuleError(f"rules.others must be an action, or off, got {options!r}; name a rule to set its thresholds")
    if response.call:
        function_of(response.call, "rules.others.call")
    return response
