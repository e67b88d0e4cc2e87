"""Parses `rules:`: thresholds of rules, and the responses to their findings during a training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import Field

from tbx_callbacks._config.cadence import DOTTED_PATH, Cadence, CadenceOption
from tbx_callbacks._config.errors import ConfigError
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
    option_fields,
    plain_off,
    short,
    validate,
)
from tbx_callbacks._config.yaml_files import read_yaml
from tbx_callbacks._extensions import ExtensionError, import_object, is_skipped, suggest
from tbx_callbacks._text import label
from tbx_callbacks.rules import RULES, Acknowledgement, Finding, Rule, default_rules
from tbx_callbacks.rules.base import ACTIONS
from tbx_callbacks.rules.registry import CODE, GROUPS, RULE_CLASSES, code_of, create_rule

METRIC_SET_KEYS = (
    "extends",
    "every",
    "strict",
    "overhead_budget",
    "axis",
    "best",
    "rules",
    "writers",
    "notify",
    "metrics",
)
RESPONSES = ("warn", *ACTIONS)
Call = Callable[[Finding], object]


@dataclass(frozen=True)
class Response:
    """The response to a finding: some of RESPONSES, and `package.function`, a function called with the finding."""

    actions: tuple[str, ...] = ("warn",)
    call: str = ""


@dataclass(frozen=True)
class LiveRule:
    """A rule, and the response to its findings."""

    rule: Rule
    response: Response


@dataclass(frozen=True)
class LiveRuleConfig:
    """The rules that are evaluated during the training.

    `named` are the rules that a set names, with None for a disabled one. `others` is the response to findings of all
    other rules; None disables those. `every` is the cadence; None means the set's cadence. Findings that are
    `acknowledged` get no response.
    """

    named: tuple[tuple[str, LiveRule | None], ...] = ()
    others: Response | None = None
    every: Cadence | None = None
    acknowledged: tuple[Acknowledgement, ...] = field(default=(), repr=False)  # the repr is in earlier digests

    def active_rules(self) -> dict[str, LiveRule]:
        """The enabled rules, by name."""
        named = dict(self.named)
        rest = {} if self.others is None else _all_but(named)
        entries = {**{name: LiveRule(rule, self.others or Response()) for name, rule in rest.items()}, **named}
        active = {name: entry for name, entry in entries.items() if entry is not None}
        return {name: replace(entry, rule=_beside(entry.rule, named)) for name, entry in active.items()}

    def describe(self) -> str:
        """The rules and their responses, on one line."""
        responses = {name: entry.response for name, entry in self.active_rules().items()}
        actions = {
            name: [*response.actions, *([response.call] if response.call else [])]
            for name, response in responses.items()
        }
        for group, members in GROUPS.items():  # one name for a group whose rules respond in the same way
            own = [actions.get(name) for name in members]
            if own[0] is not None and all(each == own[0] for each in own):
                actions = {name: texts for name, texts in actions.items() if name not in members}
                actions[group] = own[0]
        return ", ".join(f"{name} ({', '.join(texts)})" for name, texts in actions.items()) or "none"

    @property
    def may_act(self) -> bool:
        """Whether a rule may stop the training or request a checkpoint. All ranks then wait for rank 0."""
        return any(not ACTIONS.keys().isdisjoint(entry.response.actions) for entry in self.active_rules().values())


NO_LIVE_RULES = LiveRuleConfig()


def _actions(raw: object) -> tuple[str, ...]:
    actions = [raw] if isinstance(raw, str) else raw
    if not isinstance(actions, list) or not actions:
        raise SpecError(
            f" must be an action or a list of actions, got {short(raw)}; {suggest('', RESPONSES, what='actions')}"
        )
    for action in actions:
        if action not in RESPONSES:
            nearest = suggest(label(action), RESPONSES, what="actions")
            raise SpecError(f" must be a known action, got {short(action)}; {nearest}")
    return tuple(action for action in RESPONSES if action in actions)


def _action_schema() -> dict[str, Any]:
    return {
        "description": "Response to a finding, once: log it (warn), stop the training, save a checkpoint.",
        "anyOf": [{"enum": list(RESPONSES)}, {"type": "array", "items": {"enum": list(RESPONSES)}, "minItems": 1}],
    }


_RESPONSE: dict[str, Any] = {
    "action": (Annotated[tuple[str, ...], Parsed(_actions, _action_schema)], ("warn",)),
    "call": (
        Annotated[str, Field(min_length=1), Must("the name of a function, as package.function")],
        Field(
            "",
            description="A function called with the finding, as package.function.",
            json_schema_extra={"pattern": r"\."},
        ),
    ),
}
_OTHERS = model_of("others", _RESPONSE)
_EVERY = model_of("every", {"every": (CadenceOption, "log")})
_ACKNOWLEDGED = model_of(
    "acknowledged",
    {
        "rule": (str, Field("", description="Name or code of the rule.")),
        "reason": (str, Field("", description="Why the finding is left as it is; required.")),
        "tag": (str, Field("", description="Glob over the tags of the finding.")),
        "run": (str, Field("", description="Glob for the end of the run's folder.")),
    },
)


@cache
def _rule_model(name: str, cls: type[Rule]) -> type[Model]:
    """The thresholds of a rule, and the options of the response to its findings."""
    limited = {
        threshold: (
            hint,
            Field(default, gt=0 if default > 0 else None, allow_inf_nan=False if hint is float else None),
        )
        for threshold, (hint, default) in option_fields(cls).items()
    }
    return model_of(name, {**limited, **_RESPONSE})


def parse_live_rules(raw: object, inherited: LiveRuleConfig = NO_LIVE_RULES) -> LiveRuleConfig:
    """Parses the rules of a set, on top of those of the set that it extends.

    Raises:
        SpecError: an unknown rule, threshold, action or cadence, or a function that cannot be imported.
    """
    if raw is None:
        return inherited
    if plain_off(raw) is False:
        return NO_LIVE_RULES
    if not isinstance(raw, Mapping):
        known_rules = suggest("", RULE_CLASSES.names(), what="rules", most=40)
        raise SpecError(
            f" must be a mapping of a rule's name to an action or thresholds, or off, got {short(raw)}; {known_rules}"
        )
    named = _parse_named(raw)
    for name, entry in named.items():
        if entry is not None and entry.response.call and not is_skipped(entry.response.call):
            function_of(entry.response.call, f".{label(name)}.call")
    ids = _ids(named)
    kept = {name: entry for name, entry in inherited.named if name in named or ids.isdisjoint(_ids({name: entry}))}
    live = replace(inherited, named=tuple({**kept, **named}.items()))
    if "others" in raw:
        live = replace(live, others=_parse_others(plain_off(raw["others"])))
    if "acknowledged" in raw:
        entries = parse_acknowledged(raw["acknowledged"], dict(live.named))
        live = replace(live, acknowledged=(*inherited.acknowledged, *entries))
    return replace(live, **validate(_EVERY, {key: raw[key] for key in raw if key == "every"}))


def function_of(path: str, where: str = "call") -> Call:
    """Imports the function named `package.function`.

    Raises:
        SpecError: it cannot be imported, or is not a function.
    """
    if "." not in path:
        raise SpecError(f"{where} must name a function, as package.function, got {short(path)}: it names no module")
    try:
        function = import_object(path)
    except ExtensionError as error:
        raise SpecError(f"{where} must name a function that can be imported, got {short(path)}: {error}") from error
    if not callable(function):
        reason = f"it is a {type(function).__name__}"
        raise SpecError(f"{where} must name a function, as package.function, got {short(path)}: {reason}")
    return function  # type: ignore[no-any-return]


@dataclass(frozen=True)
class RuleSettings:
    """All rules with their thresholds, by name, and the findings that are acknowledged."""

    rules: dict[str, Rule]
    acknowledged: tuple[Acknowledgement, ...] = ()


def load_rules(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Rule]:
    """Loads all rules, with their thresholds. See `load_rule_settings`."""
    return load_rule_settings(source).rules


def load_rule_settings(source: str | os.PathLike[str] | Mapping[str, Any]) -> RuleSettings:
    """Loads all rules, with the settings of a YAML file or of a mapping of the same structure.

    The file may be a metric set: only thresholds and acknowledgements in `rules` are read, not the responses.

    Raises:
        ConfigError: it is invalid. The message gives the location, the rule, the value and the nearest valid name.
    """
    if isinstance(source, Mapping):
        return _build(source, "a mapping")
    return _build(read_yaml(source, "a file of rules"), label(os.path.basename(os.fspath(source))))


def thresholds(name: str) -> dict[str, float]:
    """A bundled rule's thresholds, with their defaults."""
    return {threshold: default for threshold, (_, default) in option_fields(RULES[name]).items()}


def _build(data: object, source: str) -> RuleSettings:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: a file of rules must be a mapping with the key rules, got {short(data)}")
    for key in data:
        if key not in METRIC_SET_KEYS:
            raise ConfigError(
                f"{source}: {label(key)} must be a known key; {suggest(label(key), ('rules',), what='keys')}"
            )
    raw = data.get("rules") or {}
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source}: rules must be a mapping of a rule's name to its thresholds, got {short(raw)}")
    try:
        named = _parse_named(raw)
        acknowledged = parse_acknowledged(raw.get("acknowledged"), named)
    except SpecError as error:
        raise ConfigError(f"{source}: rules{error}") from error
    rules = {**_all_but(named), **{name: entry.rule for name, entry in named.items() if entry is not None}}
    rules = {name: _beside(rule, named) for name, rule in rules.items() if named.get(name, rule) is not None}
    return RuleSettings(rules, acknowledged)


def _beside(rule: Rule, named: Mapping[str, LiveRule | None]) -> Rule:
    """The rule as it judges beside those that a user names; one that does not derive from `Rule` may not care."""
    others = {name: None if entry is None else entry.rule for name, entry in named.items()}
    return rule.beside(others) if hasattr(rule, "beside") else rule


def parse_acknowledged(raw: object, named: Mapping[str, LiveRule | None]) -> tuple[Acknowledgement, ...]:
    """Parses the list `acknowledged:`.

    Args:
        raw: the list.
        named: the rules that the same file names, with None for a disabled one.

    Raises:
        SpecError: an entry is invalid, or names no known rule.
    """
    if raw is None:
        return ()
    example = "- {rule: no_warmup, reason: why}"
    if not isinstance(raw, list):
        raise SpecError(f".acknowledged must be a list of findings, got {short(raw)}; write {example}")
    entries: list[Acknowledgement] = []
    for index, options in enumerate(raw):
        with located(f".acknowledged[{index}]"):
            if not isinstance(options, Mapping):
                raise SpecError(
                    f" must be a mapping with the keys rule and reason, got {short(options)}; write {example}"
                )
            given = validate(_ACKNOWLEDGED, options, "key")
            if not given.get("reason", "").strip():
                raise SpecError(f" must have a reason, got none for {short(given.get('rule'))}; write {example}")
            if not (name := given.get("rule")):
                raise SpecError(f" must have a rule, got {short(dict(options))}; write {example}")
            _check_known(name, named)
            if given.get("run"):
                _check_glob(given["run"])
            entries.append(Acknowledgement(**given))
    return tuple(entries)


def _check_glob(glob: str) -> None:
    try:
        PurePosixPath().match(glob)
    except ValueError as error:
        raise SpecError(f".run must be a glob such as seed_*, got {short(glob)}: {error}") from error


def _check_known(name: str, named: Mapping[str, LiveRule | None]) -> None:
    """Refuses what is neither the name nor the code of a rule."""
    of_file = [entry.rule for entry in named.values() if entry is not None]
    names = {*RULE_CLASSES.names(), *named, *(rule.id for rule in of_file)}
    codes = {code_of(cls) for cls in RULES.values()} | {code_of(rule) for rule in of_file}
    if name in names | codes or RULE_CLASSES.skips(name):
        return
    is_code = "-" in name
    if CODE.fullmatch(name.upper()):
        codes |= {code_of(rule) for rule in default_rules().values()}  # imports the rules of other packages
        if name in codes:
            return
    nearest = suggest(
        label(name.upper() if is_code else name), sorted(codes - {""} if is_code else names), what="rules", most=40
    )
    raise SpecError(f".rule must be the name or the code of a known rule, got {short(name)}; {nearest}")


def _parse_named(raw: Mapping[Any, object]) -> dict[str, LiveRule | None]:
    """The rules that `rules:` names, with None for a disabled one."""
    raw = {name: plain_off(options) for name, options in raw.items()}
    named: dict[str, LiveRule | None] = {}
    for name, options in raw.items():
        if name in GROUPS:
            with located(f".{name}"):
                response, _ = _split(options, _OTHERS)
            group = {rule: create_rule(rule, RULES[rule]) for rule in GROUPS[name]}
            named.update({rule: None if options is False else LiveRule(group[rule], response) for rule in group})
    for name, options in raw.items():
        if name in ("every", "others", "acknowledged", *GROUPS):
            continue
        if RULE_CLASSES.skips(name):
            continue
        with_code = next((rule for rule, cls in RULES.items() if code_of(cls) == str(name)[:40].upper()), None)
        if with_code is not None:
            raise SpecError(f" must name rules, got the code {short(name)}; write the name: {with_code}")
        cls = find_class(name, RULE_CLASSES, "known rules")
        with located(f".{label(name)}"):
            response, thresholds = _split(options, _rule_model(name, cls))
        rule = create(partial(create_rule, name, cls), thresholds)
        if rule.id in _ids({other: entry for other, entry in named.items() if other != name}) and options is not False:
            raise SpecError(
                f" must name every rule once, but {name} is the rule {rule.id} again; remove one of its names"
            )
        named[name] = None if options is False else LiveRule(rule, response)
    return named


def _parse_others(options: object) -> Response | None:
    if isinstance(options, Mapping) and not set(options) <= set(_RESPONSE):
        raise SpecError(f".others must be an action, or off, got {short(options)}; name a rule to set its thresholds")
    with located(".others"):
        response, _ = _split(options, _OTHERS)
    if response.call and not is_skipped(response.call):
        function_of(response.call, ".others.call")
    return None if options is False else response


def _split(options: object, model: type[Model]) -> tuple[Response, dict[str, Any]]:
    """The response to findings, and the thresholds: options are an action, several, a mapping of both, or off."""
    if isinstance(options, (str, list)):
        return Response(_actions(options)), {}
    if options is None or options is False:
        return Response(), {}
    if not isinstance(options, Mapping):
        raise SpecError(f" must be an action, a mapping of thresholds, or off, got {short(options)}")
    settings = validate(model, options, "threshold")
    return Response(settings.pop("action", Response.actions), settings.pop("call", Response.call)), settings


def _ids(named: Mapping[str, LiveRule | None]) -> set[str]:
    return {entry.rule.id for entry in named.values() if entry is not None}


def _all_but(named: Mapping[str, LiveRule | None]) -> dict[str, Rule]:
    """All rules, without those that are named under another name."""
    ids = _ids(named)
    return {name: rule for name, rule in default_rules().items() if name in named or rule.id not in ids}


def _acknowledged_schema() -> dict[str, Any]:
    entry = {**_ACKNOWLEDGED.model_json_schema(), "required": ["rule", "reason"]}
    listed = {"type": "array", "description": "Findings that are known and left as they are.", "items": entry}
    return {"anyOf": [listed, {"type": "null"}]}


def live_rules_schema() -> dict[str, Any]:
    """The JSON Schema of `rules:`."""
    off: list[dict[str, Any]] = [OFF, {"type": "null"}]
    models = {
        "others": _OTHERS,
        **dict.fromkeys(GROUPS, _OTHERS),
        **{name: _rule_model(name, cls) for name, cls in RULE_CLASSES.all().items()},
    }
    rules = {name: {"anyOf": [*off, _action_schema(), model.model_json_schema()]} for name, model in models.items()}
    named = {
        "type": "object",
        "description": "Rules that are evaluated during the training.",
        "additionalProperties": False,
        "properties": {**_EVERY.model_json_schema()["properties"], "acknowledged": _acknowledged_schema(), **rules},
        "patternProperties": {DOTTED_PATH: {"anyOf": [*off, _action_schema(), {"type": "object"}]}},
    }
    return {"anyOf": [*off, named]}
