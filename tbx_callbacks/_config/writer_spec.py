"""Parses the writers of a metric set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tbx_callbacks._config.cadence import DOTTED_PATH
from tbx_callbacks._config.validation import SpecError, find_class, located, name_and_options, parsed_list, short
from tbx_callbacks._extensions import suggest
from tbx_callbacks._text import label, words
from tbx_callbacks.writers.base import Writer
from tbx_callbacks.writers.registry import TENSORBOARD, WRITER_CLASSES, WRITERS


@dataclass(frozen=True)
class WriterSpec:
    """A writer of the run: its name, its class, and the keyword arguments of its constructor."""

    name: str
    cls: Callable[..., Writer]
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, log_dir: str) -> Writer:
        """Creates the writer for a run's folder. The constructor may raise anything."""
        return self.cls(log_dir, **self.options)


TENSORBOARD_ONLY = (WriterSpec(TENSORBOARD, WRITERS[TENSORBOARD]),)


def _entry(entry: object) -> WriterSpec | None:
    name, options = name_and_options(entry, "writer")
    if WRITER_CLASSES.skips(name):
        return None
    cls = find_class(name, WRITER_CLASSES, "a known writer")
    with located(f".{label(name)}"):
        if not isinstance(options, Mapping | None):
            raise SpecError(f" must be a mapping of options, got {short(options)}")
        _check_options(cls, options or {})
    return WriterSpec(str(name), cls, dict(options or {}))


def _entry_schema() -> dict[str, Any]:
    options, names = {"type": ["object", "null"]}, WRITER_CLASSES.names()
    mapping = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": dict.fromkeys(names, options),
        "patternProperties": {DOTTED_PATH: options},
    }
    return {"anyOf": [{"enum": names}, {"type": "string", "pattern": DOTTED_PATH}, mapping]}


def _distinct(entries: Sequence[WriterSpec | None]) -> tuple[WriterSpec, ...]:
    """Raises SpecError if two would write the same values to the same place; drops those that are not checked."""
    specs = [spec for spec in entries if spec is not None]
    keys = [(spec.cls, None if spec.name == TENSORBOARD else spec.options) for spec in specs]
    for index, spec in enumerate(specs):
        if keys[index] in keys[:index]:
            raise SpecError(f" must differ in their options, but two are {spec.name}; remove one")
    return tuple(specs)


Writers = Annotated[
    Sequence[WriterSpec],
    parsed_list(
        _entry,
        _entry_schema,
        "a list of at least one writer",
        remedy="leave it out to write for TensorBoard",
        least=1,
    ),
    AfterValidator(_distinct),
    Field(description="The writers of the run, each by its name or the dotted path of its class."),
]


def _check_options(cls: type[Writer], options: Mapping[Any, Any]) -> None:
    """Raises SpecError if the constructor does not take `(log_dir, **options)`; passes one that cannot be inspected."""
    try:
        signature = inspect.signature(cls)
    except Exception:  # a class from outside may raise anything
        return
    keywords = [p.name for p in signature.parameters.values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    try:
        signature.bind("", **options)
    except TypeError as error:
        first = next(iter(signature.parameters), "")
        unknown = next((key for key in options if key not in keywords or key == first), None)
        if unknown is None:
            raise SpecError(f" must fit {cls.__name__}{signature}, got {short(options)}: {words(error)}") from error
        nearest = suggest(label(unknown), [name for name in keywords if name != first], what="options")
        raise SpecError(f".{label(unknown)} must be a known option, got {short(unknown)}; {nearest}") from error
