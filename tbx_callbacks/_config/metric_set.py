"""Loads metric sets from YAML files, or mappings of the same structure, as validated `Config` objects."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from tbx_callbacks._config.bundled import find_set
from tbx_callbacks._config.cadence import Cadence, CadenceOption
from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.metric_spec import MetricEntries, MetricEntry, MetricSpec
from tbx_callbacks._config.notify_spec import NotifyTargets
from tbx_callbacks._config.rule_options import NO_LIVE_RULES, LiveRuleConfig, live_rules_schema, parse_live_rules
from tbx_callbacks._config.validation import Model, Must, Parsed, SpecError, located, short, validate
from tbx_callbacks._config.writer_spec import TENSORBOARD_ONLY, Writers, WriterSpec
from tbx_callbacks._config.yaml_files import read_yaml
from tbx_callbacks._notify.alerts import Target
from tbx_callbacks._text import label
from tbx_callbacks.runs.folders import AXES

_MAX_PARENTS = 20  # sets that extend one another
_FORMER_NAMES = {"MetricSpec": "Item", "LiveRuleConfig": "Live", "LiveRule": "Watched"}


@dataclass(frozen=True)
class Config:
    """A validated metric set.

    Attributes:
        items: the metrics.
        every: the default cadence: a number of optimizer steps, `log` for the trainer's logging steps, or a schedule.
        strict: raise an error inside a metric instead of disabling the metric.
        overhead_budget: the largest share of the training time for monitoring; None sets no limit.
        axis: the x axes of the run: always `step`, and optionally `samples`, `tokens` and `epochs`.
        best: pairs of an evaluation metric, by name or tag, and whether a larger value is better.
        live: the rules that are evaluated during the training.
        writers: the writers of the run.
        notify: the receivers of notifications.
        source: where the set comes from, for messages.
        kept: inherited metrics that stay beside those of the same name that the set adds.
    """

    items: tuple[MetricSpec, ...]
    every: Cadence = "log"
    strict: bool = False
    overhead_budget: float | None = None
    axis: tuple[str, ...] = ("step",)
    best: tuple[tuple[str, bool], ...] = ()
    live: LiveRuleConfig = NO_LIVE_RULES
    writers: tuple[WriterSpec, ...] = TENSORBOARD_ONLY
    notify: tuple[Target, ...] = ()
    source: str = field(default="a mapping", compare=False)
    kept: tuple[MetricSpec, ...] = field(default=(), compare=False)

    @property
    def digest(self) -> str:
        """Identifies the set in checkpoints: 16 hexadecimal digits of its content.

        Options with their default value are left out, so a new option does not change the digest. Receivers of
        notifications are left out too: they change no value of a run.
        """
        return _sha256(json.dumps(self._content(), sort_keys=True, default=_plain))

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
        writers = [[writer.name, writer.options] for writer in self.writers]
        return {
            **({"writers": writers} if self.writers != TENSORBOARD_ONLY else {}),
            **({"best": self.best} if self.best else {}),
            "metrics": metrics,
            "every": self.every,
            "strict": self.strict,
            "overhead_budget": self.overhead_budget,
            "axis": self.axis,
            "rules": {
                "named": named,
                "others": _non_default(self.live.others),
                "every": self.live.every,
                **({"acknowledged": known} if (known := [vars(one) for one in self.live.acknowledged]) else {}),
            },
        }

    def _repr_digest(self) -> str:
        """The digest in earlier checkpoints: of the objects' repr, with the class names of that time."""
        text = repr((self.items, self.every, self.strict, self.overhead_budget, self.axis, self.live))
        for name, former in _FORMER_NAMES.items():
            text = text.replace(f"{name}(", f"{former}(")
        return _sha256(text)


def _about(description: str) -> Any:
    return Field(description=description)


def _axis(value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if names[:1] != ("step",) or any(name not in AXES for name in names[1:]) or len(set(names)) < len(names):
        raise SpecError(
            f" must be a list of step and perhaps {', '.join(AXES)}, got {short(value)};"
            " [step, samples] adds samples as a second x axis"
        )
    return names


def _axis_schema() -> dict[str, Any]:
    axes = {"prefixItems": [{"const": "step"}], "items": {"enum": list(AXES)}}
    return {"type": "array", **axes, "minItems": 1, "uniqueItems": True}


def _best(value: object) -> tuple[tuple[str, bool], ...]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise SpecError(
            f" must be a mapping of metrics to max or min, got {short(value)}; write for example score: max"
        )
    for name, direction in value.items():
        if direction not in ("max", "min"):
            raise SpecError(
                f".{label(name)} must be max or min, got {short(direction)}; max if a larger value is better"
            )
    return tuple((name, direction == "max") for name, direction in value.items())


def _best_schema() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": {"enum": ["max", "min"]}}


class MetricSet(Model):
    """The keys of a metric set. Their defaults are those of `Config`, or of the set that is extended."""

    model_config = ConfigDict(title="tbx_callbacks metric set")

    extends: Annotated[str | None, Must("the name of a set or a path"), _about("A bundled set or a path.")] = None
    every: CadenceOption = "log"
    strict: Annotated[bool, Must("true or false"), _about("Raise errors of metrics instead of disabling them.")] = False
    overhead_budget: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        Must("a share of the training time between 0 and 1", "0.01 is 1 %"),
        _about("Largest share of the training time for monitoring."),
    ] = None
    axis: Annotated[
        tuple[str, ...],
        Parsed(_axis, _axis_schema),
        _about("The x axes of the run: step, and further axes in subfolders."),
    ] = ("step",)
    best: Annotated[
        tuple[tuple[str, bool], ...],
        Parsed(_best, _best_schema),
        _about("By evaluation metric, whether the largest (max) or the smallest (min) value is the best one."),
    ] = ()
    rules: Annotated[Any, Parsed(lambda raw: raw, live_rules_schema)] = None
    writers: Writers = ()
    notify: NotifyTargets = ()
    metrics: MetricEntries = ()


def load_config(source: str | os.PathLike[str] | Mapping[str, Any] | Config = "default") -> Config:
    """Loads a metric set.

    A metric set that names Python objects runs their code: only use files you trust.

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
    path = find_set(os.fspath(source), base)
    if len(chain) == _MAX_PARENTS:
        raise ConfigError(f"extends must name at most {_MAX_PARENTS} sets one after the other; put them into one file")
    if path in chain:
        raise ConfigError(f"extends must not form a cycle, got {' -> '.join(p.name for p in (*chain, path))}")
    return _build(read_yaml(path, "a metric set"), label(path.name), path.parent, (*chain, path))


def _build(data: object, source: str, base: Path, chain: tuple[Path, ...]) -> Config:
    if data is None:
        raise ConfigError(f"{source}: a metric set must not be empty; name metrics under `metrics:`")
    if not isinstance(data, Mapping):
        keys = ", ".join(MetricSet.model_fields)
        raise ConfigError(f"{source}: a metric set must be a mapping with the keys {keys}, got {short(data)}")
    try:
        settings = validate(MetricSet, data, "key")
        parent = _load_parent(settings.pop("extends", None), source, base, chain)
        entries = settings.pop("metrics", ())
        settings["items"], settings["kept"] = _merge(parent.items, entries)
        if "best" in settings:
            settings["best"] = tuple(({**dict(parent.best), **dict(settings["best"])}).items())
        with located("rules"):
            settings["live"] = parse_live_rules(settings.pop("rules", None), parent.live)
    except SpecError as error:
        raise ConfigError(f"{source}: {str(error).removeprefix('.')}") from error
    if not settings["items"] and None not in entries:
        raise ConfigError(f"{source}: metrics must name at least one metric, got none")
    return replace(parent, source=source, **settings)


def _load_parent(name: str | None, source: str, base: Path, chain: tuple[Path, ...]) -> Config:
    if name is None:
        return Config(())
    try:
        return _load(name, base, chain)
    except ConfigError as error:
        raise ConfigError(f"{source}: extends: {error}") from error


def _merge(
    inherited: Sequence[MetricSpec], entries: Sequence[MetricEntry]
) -> tuple[tuple[MetricSpec, ...], tuple[MetricSpec, ...]]:
    """Adds the entries to the inherited items, and removes the disabled ones; repeated ones are replaced in place.

    Returns:
        All items, and the inherited ones that stay beside other entries of the same metric.
    """
    items = {item.key(): item for item in inherited}
    own_keys: set[tuple[object, ...]] = set()
    for index, entry in enumerate(entries):
        if entry is None:  # not checked
            continue
        spec, is_off = entry
        where = f"metrics[{index}].{spec.name}"
        if is_off:
            removed = [key for key in items if key[0] is spec.key()[0]]
            if not removed:
                raise SpecError(f"{where}: off must name a metric of the extended set, but it has no {spec.name}")
            for key in removed:
                del items[key]
            continue
        if spec.key() in own_keys:
            raise SpecError(f"{where} must differ from the items before it in by, include or exclude: same tags")
        own_keys.add(spec.key())
        items[spec.key()] = spec
    added = {key[0] for key in own_keys}
    kept = [item for item in inherited if item.key()[0] in added and items.get(item.key()) is item]
    return tuple(items.values()), tuple(kept)


def _non_default(settings: Any) -> dict[str, Any] | None:
    """The dataclass fields that differ from their default value; None for None."""
    if settings is None:
        return None
    return {
        option.name: getattr(settings, option.name)
        for option in fields(settings)
        if option.default is MISSING or getattr(settings, option.name) != option.default
    }


def _plain(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
