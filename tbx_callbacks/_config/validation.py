"""Defines the base of the typed models, and turns their errors into sentences.

A sentence starts after its location: ` must be RULE, got VALUE; REMEDY`, perhaps with a relative location before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    create_model,
)
from pydantic_core import CoreSchema, core_schema

from tbx_callbacks._extensions import ExtensionError, Registry, suggest
from tbx_callbacks._text import label, reason, words
from tbx_callbacks._text import short as short  # other modules take it from here

T = TypeVar("T")


class SpecError(ValueError):
    """An invalid part of a metric set, as a sentence that starts after its location."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts a relative location before the sentences of errors."""
    try:
        yield
    except SpecError as error:
        raise SpecError(f"{where}{error}") from error


class Model(BaseModel):
    """A mapping in YAML: unknown keys are errors, and values are never converted."""

    # Inputs are hidden from tracebacks, too: an address of notifications may hold a token.
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


@dataclass(frozen=True)
class Must:
    """Annotates a type with its rule in words, for the error message about any other value."""

    rule: str
    remedy: str = ""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def _validate(self, value: object, inner: Callable[[object], object]) -> object:
        try:
            return inner(value)
        except ValidationError as error:
            if any(detail["type"] == "value_error" for detail in error.errors()):
                raise  # it has a sentence
            remedy = f"; {self.remedy}" if self.remedy else ""
            raise SpecError(f" must be {self.rule}, got {short(value)}{remedy}") from None


@dataclass(frozen=True)
class Parsed:
    """Annotates a type whose values a function parses. `schema` builds the JSON Schema of the raw values."""

    parse: Callable[[Any], object]
    schema: Callable[[], dict[str, Any]]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self.schema()


def parsed_list(
    parse: Callable[[Any], T], schema: Callable[[], dict[str, Any]], rule: str, *, remedy: str = "", least: int = 0
) -> Parsed:
    """A list whose entries a function parses, up to the first mistake: to explain each of thousands takes minutes."""

    def parse_all(entries: object) -> list[T]:
        if not isinstance(entries, Sequence) or isinstance(entries, (str, bytes)) or len(entries) < least:
            shown = _as_list(entries) if isinstance(entries, Mapping) and entries else remedy
            raise SpecError(f" must be {rule}, got {short(entries)}{'; ' * bool(shown)}{shown}")
        parsed = []
        for index, entry in enumerate(entries):
            with located(f"[{index}]"):
                parsed.append(parse(entry))
        return parsed

    limits = {"minItems": least} if least else {}
    return Parsed(parse_all, lambda: {"type": "array", "items": schema(), **limits})


def _as_list(entries: Mapping[Any, Any]) -> str:
    """Tells how to write the first entry of a mapping as one of a list."""
    name, options = next(iter(entries.items()))
    return f"start each entry with a dash: - {label(name)}" + (": {...}" if isinstance(options, Mapping) else "")


def option_fields(cls: type[Any]) -> dict[str, Any]:
    """The fields of a dataclass as those of a model."""
    hints = get_type_hints(cls)
    options: dict[str, Any] = {}
    for option in fields(cls):
        hint: Any = hints[option.name]
        origin = get_origin(hint) or hint
        if isinstance(origin, type) and issubclass(origin, (tuple, set, frozenset, Enum)):
            hint = Annotated[hint, Field(strict=False)]  # YAML has lists and strings for them
        has_factory = option.default is MISSING
        options[option.name] = (hint, Field(default_factory=option.default_factory) if has_factory else option.default)  # type: ignore[arg-type]
    return options


def model_of(name: str, options: Mapping[str, Any]) -> type[Model]:
    """A model with these fields."""
    return create_model(name, __base__=Model, **options)


def validate(model: type[Model], options: Mapping[Any, Any], kind: str = "option") -> dict[str, Any]:
    """Returns the valid options that are given; `kind` names an option in messages.

    Raises:
        SpecError: an option is unknown, or its value is invalid.
    """
    for key in options:
        if key not in model.model_fields:
            known = suggest(label(key), model.model_fields, what=f"{kind}s")
            raise SpecError(f".{label(key)} must be a known {kind}, got {short(key)}; {known}")
    try:
        parsed = model.model_validate(dict(options))
    except ValidationError as error:
        raise SpecError(_sentence(error)) from error
    return {name: getattr(parsed, name) for name in parsed.model_fields_set}


def create(cls: Callable[..., T], options: Mapping[str, Any]) -> T:
    """Creates an object from valid options.

    Raises:
        SpecError: its class refuses them.
    """
    try:
        return cls(**options)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a class from outside may raise anything, SystemExit included
        text = words(error) if isinstance(error, Exception) else reason(error)
        raise SpecError(f": {text}") from error


def _sentence(error: ValidationError) -> str:
    detail = error.errors()[0]
    location = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"])
    if detail["type"] == "value_error":
        return f"{location}{detail['ctx']['error']}"
    remedy = ""
    given = detail["input"]
    if isinstance(given, str) and len(given) < 40 and re.fullmatch(r"[-+]?\d+e[-+]?\d+", given, re.IGNORECASE):
        number = re.sub("e", ".0e", detail["input"], flags=re.IGNORECASE)
        remedy = f"; YAML reads it as text: write {number}"
    return f"{location} must be {detail['msg'].removeprefix('Input should be ')}, got {short(detail['input'])}{remedy}"


def find_class(name: object, registry: Registry[T], known: str) -> T:
    """Returns the class of a name in a metric set; `known` is the rule in words.

    Raises:
        SpecError: the name is unknown, or its class cannot be used.
    """
    try:
        cls = registry.find(name) if isinstance(name, str) else None
    except ExtensionError as error:
        raise SpecError(f" must name a {registry.kind} that can be used, got {short(name)}: {error}") from error
    if cls is None:
        nearest = suggest(label(name), registry.names(), what=f"{registry.kind}s", most=40)
        raise SpecError(f" must name {known}, got {short(name)}; {nearest}")
    return cls


OFF: dict[str, Any] = {"enum": [False, "off"]}
"""The JSON Schema of `off`: YAML 1.1 reads it as false, a mapping in Python may hold the word."""


def plain_off(options: object) -> object:
    """Returns False for the word `off`, and other options as they are."""
    return False if isinstance(options, str) and options == "off" else options


def name_and_options(entry: object, kind: str) -> tuple[object, object]:
    """Splits an entry of a list, a name or one name with its options.

    Raises:
        SpecError: the entry is a mapping with more or less than one key.
    """
    if not isinstance(entry, Mapping):
        return entry, None
    if len(entry) != 1:
        keys = ", ".join(map(label, [*entry][:12])) + (", ..." if len(entry) > 12 else "")
        raise SpecError(
            f" must be a name or one name with its options, got {len(entry)} keys ({keys});"
            f" start each {kind} with its own dash"
        )
    return next(iter(entry.items()))
