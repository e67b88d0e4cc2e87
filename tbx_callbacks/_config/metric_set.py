"""Loads metric sets from YAML files, or mappings of the same structure, as validated `Config` objects."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from tbx_callbacks._config.bundled import bundled_sets
from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.keys import METRIC_SET_KEYS
from tbx_callbacks._config.live_rule_options import NO_LIVE_RULES, LiveRuleConfig, parse_live_rules
from tbx_callbacks._config.metric_spec import Cadence, MetricSpec, MetricSpecError, check_cadence, parse_metric_spec
from tbx_callbacks._config.rule_options import RuleError
from tbx_callbacks._config.yaml_files import read_yaml
from tbx_callbacks._suggestions import suggest
from tbx_callbacks.runs.folders import AXES

_FORMER_NAMES = {"MetricSpec": "Item", "LiveRuleConfig": "Live", "LiveRule": "Watched"}


@dataclass(frozen=True)
class Config:
    """A validated metric set.

    Attributes:
        items: the metrics.
        every: the default cadence: a number of optimizer steps, or `log` for the trainer's own logging cadence.
        strict: raise an error inside a metric instead of disabling the metric.
        overhead_budget: the largest share of the training time for monitoring; None sets no limit.
        axis: the x axes of the run: always `step`, and optionally `samples`, `tokens` and `epochs`.
        live: the rules that are evaluated during the training.
        source: where the set comes from, for messages.
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

        Options with their default value are left out, so a new option does not change the digest.
        """
        return _sha256(json.dumps(self._content(), sort_keys=True, default=str))

    def matches(self, digest: str | None) -> bool:
        """Whether a checkpoint's digest is that of this set, in the current or the earlier form."""
        return digest is not None and digest in (self.digest, self._repr_digest())

    def _content(self) -> dict[str, Any]:
        metrics = [
            {
                "name": spec.name,
                "every": spec.every,
                "select": _non_default(spec.select),
                "options": _non_default(spec.metric),
            }
            for spec in self.items
        ]
        named = [
            [
                name,
                None
                if entry is None
                else {"thresholds": _non_default(entry.rule), "response": _non_default(entry.response)},
            ]
            for name, entry in self.live.named
        ]
        return {
            "metrics": metrics,
            "every": self.every,
            "strict": self.strict,
            "overhead_budget": self.overhead_budget,
            "axis": self.axis,
            "rules": {"named": named, "others": _non_default(self.live.others), "every": self.live.every},
        }

    def _repr_digest(self) -> str:
        """The digest in earlier checkpoints: of the objects' repr, with the class names of that time."""
        text = repr((self.items, self.every, self.strict, self.overhead_budget, self.axis, self.live))
        for name, former in _FORMER_NAMES.items():
            text = text.replace(f"{name}(", f"{former}(")
        return _sha256(text)


def load_config(source: str | os.PathLike[str] | Mapping[str, Any] | Config = "default") -> Config:
    """Loads a metric set.

    Args:
        source: the name of a bundled set, the path of a YAML file, a mapping of the same structure, or a Config.

    Raises:
        ConfigError: the set is invalid.
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
            f"{source}: a metric set must be a mapping with the keys {', '.join(METRIC_SET_KEYS)}, got {_repr(data)}"
        )
    for key in data:
        if key not in METRIC_SET_KEYS:
            raise ConfigError(
                f"{source}: {key} must be a known key, got {key!r}; {suggest(str(key), METRIC_SET_KEYS, what='keys')}"
            )
    parent = _load_parent(data.get("extends"), source, base, chain)
    strict = data.get("strict", parent.strict if parent else False)
    if not isinstance(strict, bool):
        raise ConfigError(f"{source}: strict must be true or false, got {_repr(strict)}")
    budget = data.get("overhead_budget", parent.overhead_budget if parent else None)
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget < 1):
        raise ConfigError(
            f"{source}: overhead_budget must be a share of the training time between 0 and 1, got {_repr(budget)};"
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


def _axis(value: object, source: str) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if names[:1] != ("step",) or not set(names[1:]) <= set(AXES) or len(set(names)) < len(names):
        raise ConfigError(
            f"{source}: axis must be a list of step and perhaps {', '.join(AXES)}, got {_repr(value)}; [step, samples]"
            " adds samples as a second x axis"
        )
    return names


def _load_parent(name: object, source: str, base: Path, chain: tuple[Path, ...]) -> Config | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise ConfigError(f"{source}: extends must be the name of a set or a path, got {_repr(name)}")
    try:
        return _load(name, base, chain)
    except ConfigError as error:
        raise ConfigError(f"{source}: extends: {error}") from error


def _merge(inherited: Sequence[MetricSpec], entries: object) -> tuple[MetricSpec, ...]:
    """Inherited items without the disabled ones; repeated ones are replaced in place."""
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise MetricSpecError(f"metrics must be a list of metrics, got {_repr(entries)}")
    items = {item.key(): item for item in inherited}
    own_keys: set[tuple[object, ...]] = set()
    for index, (name, options) in enumerate(_entries(entries)):
        where = f"metrics[{index}]"
        item = parse_metric_spec(name, {} if options is False else options, where)
        if options is False:
            removed = [key for key, other in items.items() if other.name == name]
            if not removed:
                raise MetricSpecError(
                    f"{where}.{name}: off must name a metric of the extended set, but it has no {name}"
                )
            for key in removed:
                del items[key]
            continue
        if item.key() in own_keys:
            raise MetricSpecError(
                f"{where}.{name} must differ from the items before it in by, include or exclude: same tags"
            )
        own_keys.add(item.key())
        items[item.key()] = item
    return tuple(items.values())


def _entries(entries: Sequence[object]) -> Iterator[tuple[object, object]]:
    for index, entry in enumerate(entries):
        if isinstance(entry, Mapping):
            if len(entry) != 1:
                raise MetricSpecError(
                    f"metrics[{index}] must be a name or one name with its options, got {len(entry)} keys"
                    f" ({', '.join(map(str, entry))}); start each metric with its own dash"
                )
            yield next(iter(entry.items()))
        else:
            yield entry, {}


def _repr(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _non_default(settings: Any) -> dict[str, Any] | None:
    """The dataclass fields that differ from their default value; None for None."""
    if settings is None:
        return None
    return {
        option.name: getattr(settings, option.name)
        for option in fields(settings)
        if option.default is MISSING or getattr(settings, option.name) != option.default
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
