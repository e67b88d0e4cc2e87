"""Defines `Cadence`, the values of `every`, and parses them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, TypeAdapter, WithJsonSchema, WrapValidator

from tbx_callbacks._config.schedule import At, EveryEpochs, NotChecked, PerDecade, Schedule
from tbx_callbacks._config.validation import (
    Model,
    Must,
    SpecError,
    create,
    located,
    model_of,
    option_fields,
    short,
    validate,
)
from tbx_callbacks._extensions import (
    ExtensionError,
    check_frozen_dataclass,
    import_object,
    is_skipped,
    outside_code,
    suggest,
)
from tbx_callbacks._text import label

Cadence = int | Literal["log"] | Schedule
"""A number of optimizer steps, the trainer's logging steps, or a schedule."""

DOTTED_PATH = r"^[A-Za-z_]\w*(\.\w+)+$"
_Simple = Annotated[PositiveInt | Literal["log"], Must('a positive number of optimizer steps or "log"')]


class _Forms(Model):
    model_config = ConfigDict(
        title="schedule",
        json_schema_extra={
            "description": "A schedule, or the dotted path of its class with options.",
            "minProperties": 1,
            "maxProperties": 1,
            "patternProperties": {DOTTED_PATH: {"type": ["object", "null"]}},
        },
    )

    at: Annotated[list[PositiveInt], Must("a list of steps, counted from 1")] = Field(
        default_factory=list, min_length=1
    )
    per_decade: Annotated[PositiveInt, Must("a positive number of points")] = 1
    epochs: Annotated[PositiveFloat, Field(allow_inf_nan=False), Must("a positive number of epochs")] = 1.0


_SCHEDULES: dict[str, Callable[[Any], Schedule]] = {
    "at": lambda steps: At(frozenset(steps)),
    "per_decade": PerDecade,
    "epochs": EveryEpochs,
}


def _parse(value: object, simple: Callable[[object], Cadence]) -> Cadence:
    if isinstance(value, str) and "." in value:
        raise SpecError(
            f" must be a mapping for a cadence of your own, got {short(value)}; write {{{label(value)}: {{}}}}"
        )
    if not isinstance(value, Mapping):
        return simple(value)
    if len(value) != 1:
        raise SpecError(f" must have one of {', '.join(_SCHEDULES)} or the path of a class, got {short(value)}")
    ((name, options),) = value.items()
    if name in _SCHEDULES:
        return _SCHEDULES[name](validate(_Forms, value)[name])
    if not isinstance(name, str) or "." not in name:
        known = suggest(label(name), _SCHEDULES, what="cadences")
        raise SpecError(f".{label(name)} must be a known cadence or the path of a class, got {short(name)}; {known}")
    return _from_outside(name, options)


def _from_outside(path: str, options: object) -> Schedule:
    """Creates the schedule of a class outside the package, and tries it on three steps.

    Raises:
        SpecError: it cannot be imported or created, or is no schedule. The sentence has no location.
    """
    if is_skipped(path):
        return NotChecked(path)
    try:
        with outside_code("it cannot be checked: "):
            cls = check_frozen_dataclass(import_object(path))
    except ExtensionError as error:
        raise SpecError(f" must name a cadence that can be used, got {short(path)}: {error}") from error
    if not isinstance(options, Mapping | None):
        raise SpecError(f".{path} must be a mapping of options, got {short(options)}")
    with located(f".{path}"):
        schedule: Schedule = create(cls, validate(model_of(path, option_fields(cls)), options or {}))
    with outside_code(f".{path} must be a function of the step that can be pickled and hashed: ", SpecError):
        results = [schedule(step) for step in (1, 2, 3)]
        is_restored = {schedule: True}.get(pickle.loads(pickle.dumps(schedule)), False)
    if any(type(result) is not bool for result in results):
        raise SpecError(f".{path} must return True or False, got {short(results)} at steps 1, 2 and 3")
    if not is_restored:
        raise SpecError(f".{path} must be equal to its pickled copy; let its fields define it")
    return schedule


CadenceOption = Annotated[
    _Simple,
    WrapValidator(_parse),
    WithJsonSchema(
        {
            "description": "Optimizer steps between points, log (the steps at which the trainer logs), or a schedule.",
            "anyOf": [*TypeAdapter(_Simple).json_schema()["anyOf"], _Forms.model_json_schema()],
        }
    ),
]
