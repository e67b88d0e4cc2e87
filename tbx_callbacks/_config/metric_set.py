"""Metric sets: YAML files (or mappings of the same structure) turned into validated objects."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from tbx_callbacks._config.bundled import bundled_sets
from tbx_callbacks._config.errors import ConfigError, suggest
from tbx_callbacks._config.live_rules import NO_LIVE_RULES, LiveRuleConfig, parse_live_rules
from tbx_callbacks._config.metric_spec import Cadence, MetricSpec, MetricSpecError, check_cadence, parse_metric_spec
from tbx_callbacks._config.rules import METRIC_SET_KEYS, RuleError
from tbx_callbacks._config.yaml import read_yaml
from tbx_callbacks.runs.folders import AXES

_FORMER_NAMES = {"MetricSpec": "Item", "LiveRuleConfig": "Live", "LiveRule": "Watched"}


@dataclass(frozen=True)
class Config:
    """A validated metric set.

    `every` is the default cadence: optimizer steps, or `log` for the trainer's own logging cadence. With `strict` an
    error inside a metric is raised instead of switching the metric off. `overhead_budget` is the share of the training
    time that watching may take; None sets no limit. `axis` names what the run is written against: its steps always,
    and perhaps `samples`, `tokens` and `epochs`. `live` are the rules that are asked while the run trains.
    """

    items: tuple[MetricSpec, ...]
    every: Cadence = "log"
    strict: bool = False
    overhead_budget: float | None = None
    axis: tuple[str, ...] = ("step",)
    live: LiveRuleConfig = NO_LIVE_RULES
    source: str = field(default="a mapping", compare=False)

    @property
    def digest(self) -> str:
        """Identifies the set in checkpoints: 16 hexadecimal digits of its content.

        Options that have their default value do not count, so a new option changes no digest.
        """
        return _sha256(json.dumps(self._content(), sort_keys=True, default=str))

    def matches(self, digest: str | None) -> bool:
        """Whether a checkpoint's digest is that of this set, also in the form that earlier checkpoints hold."""
        return digest is not None and digest in (self.digest, self._repr_digest())

    def _content(self) -> dict[str, Any]:
        metrics = [
            {"name": spec.name, "every": spec.every, "select": _changed(spec.select), "options": _changed(spec.metric)}
            for spec in self.items
        ]
        named = [
            [name, None if one is None else {"thresholds": _changed(one.rule), "response": _changed(one.response)}]
            for name, one in self.live.named
        ]
        return {
            "metrics": metrics,
            "every": self.every,
            "strict": self.strict,
            "overhead_budget": self.overhead_budget,
            "axis": self.axis,
            "rules": {"named": named, "others": _changed(self.live.others), "every": self.live.every},
        }

    def _repr_digest(self) -> str:
        """The digest that earlier checkpoints hold: of the objects' repr, under the class names of that time."""
        text = repr((self.items, self.every, self.strict, self.overhead_budget, self.axis, self.live))
        for name, former in _FORMER_NAMES.items():
            text = text.replace(f"{name}(", f"{former}(")
        return _sha256(text)


def load_config(source: str | os.PathLike[str] | Mapping[str, Any] | Config = "default") -> Config:
    """Reads a metric set.

    Args:
        source: the name of a bundled set, the path of a YAML file, a mapping of the same structure, or a Config.

    Raises:
        ConfigError: the set cannot be used.
    """
    if isinstance(source, Config):
        return source
    if isinstance(source, Mapping):
        return _build(source, "a mapping", Path.cwd(), ())
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(f"a metric set must be a name, a path, a mapping or a Config, got {type(source).__name__}")
    return _load(source, Path.cwd(), ())


def _load(source: str | os.PathLike[str], base: Path, chain: tuple[Path, ...]) -> Config:
    path = _find(os.fspath(source), base)
    if path in chain:
        raise ConfigError(f"extends must not form a cycle, got {' -> '.join(p.name for p in (*chain, path))}")
    return _build(read_yaml(path, "a metric set"), path.name, path.parent, (*chain, path))


def _find(source: str, base: Path) -> Path:
    sets = bundled_sets()
    looks_like_a_path = os.sep in source or source.endswith((".yaml", ".yml"))
    if not looks_like_a_path and source in sets:
        return sets[source]
    path = (base / Path(source).expanduser()).resolve()
    if path.is_file():
        return path
    if looks_like_a_path or path.exists():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"a metric set must be a YAML file, but {source!r} {reason}; bundled sets: {', '.join(sets)}")
    raise ConfigError(
        f"a metric set must be a bundled name or a path, got {source!r}; {suggest(source, sets, what='sets')}"
    )


def _build(data: object, source: str, base: Path, chain: tuple[Path, ...]) -> Config:
    if data is None:
        raise ConfigError(f"{source}: a metric set must not be empty; name metrics under `metrics:`")
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{source}: a metric set must be a mapping with the keys {', '.join(METRIC_SET_KEYS)}, got {_show(data)}"
        )
    for key in data:
        if key not in METRIC_SET_KEYS:
            raise ConfigError(
                f"{source}: {key} must be a known key, got {key!r}; {suggest(str(key), METRIC_SET_KEYS, what='keys')}"
            )
    parent = _extended(data.get("extends"), source, base, chain)
    strict = data.get("strict", parent.strict if parent else False)
    if not isinstance(strict, bool):
        raise ConfigError(f"{source}: strict must be true or false, got {_show(strict)}")
    budget = data.get("overhead_budget", parent.overhead_budget if parent else None)
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget < 1):
        raise ConfigError(
            f"{source}: overhead_budget must be a share of the training time between 0 and 1, got {_show(budget)};"
            " 0.01 is 1 %"
        )
    axis = _axis(data.get("axis", parent.axis if parent else ["step"]), source)
    try:
        every = check_cadence("every", data.get("every", parent.every if parent else "log"))
        items = _merge(parent.items if parent else (), data.get("metrics", []))
        live = parse_live_rules(data.get("rules"), parent.live if parent else NO_LIVE_RULES)
    except (MetricSpecError, RuleError) as error:
        raise ConfigError(f"{source}: {error}") from error
    if not items:
        raise ConfigError(f"{source}: metrics must name at least one metric, got none")
    return Config(items, every, strict, budget, axis, live, source)


def _axis(given: object, source: str) -> tuple[str, ...]:
    names = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if names[:1] != ("step",) or not set(names[1:]) <= set(AXES) or len(set(names)) < len(names):
        raise ConfigError(
            f"{source}: axis must be a list of step and perhaps {', '.join(AXES)}, got {_show(given)}; [step, samples]"
            " writes the run against samples too"
        )
    return names


def _extended(name: object, source: str, base: Path, chain: tuple[Path, ...]) -> Config | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise ConfigError(f"{source}: extends must be the name of a set or a path, got {_show(name)}")
    try:
        return _load(name, base, chain)
    except ConfigError as error:
        raise ConfigError(f"{source}: extends: {error}") from error


def _merge(inherited: Sequence[MetricSpec], listed: object) -> tuple[MetricSpec, ...]:
    """Inherited items, less those switched off, with repeated ones replaced in place."""
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise MetricSpecError(f"metrics must be a list of metrics, got {_show(listed)}")
    items = {item.key(): item for item in inherited}
    own: set[tuple[object, ...]] = set()
    for place, (name, options) in enumerate(_entries(listed)):
        where = f"metrics[{place}]"
        item = parse_metric_spec(name, {} if options is False else options, where)
        if options is False:
            gone = [key for key, other in items.items() if other.name == name]
            if not gone:
                raise MetricSpecError(
                    f"{where}.{name}: off must name a metric of the extended set, but it has no {name}"
                )
            for key in gone:
                del items[key]
            continue
        if item.key() in own:
            raise MetricSpecError(
                f"{where}.{name} must differ from the items before it in by, include or exclude: same tags"
            )
        own.add(item.key())
        items[item.key()] = item
    return tuple(items.values())


def _entries(listed: Sequence[object]) -> Iterator[tuple[object, object]]:
    for place, entry in enumerate(listed):
        if isinstance(entry, Mapping):
            if len(entry) != 1:
                raise MetricSpecError(
                    f"metrics[{place}] must be a name or one name with its options, got {len(entry)} keys"
                    f" ({', '.join(map(str, entry))}); start each metric with its own dash"
                )
            yield next(iter(entry.items()))
        else:
            yield entry, {}


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _changed(settings: Any) -> dict[str, Any] | None:
    """The fields of a dataclass that do not have their default value; None for None."""
    if settings is None:
        return None
    return {
        option.name: getattr(settings, option.name)
        for option in fields(settings)
        if option.default is MISSING or getattr(settings, option.name) != option.default
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
