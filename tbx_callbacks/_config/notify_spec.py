"""Parses the receivers of notifications; no message repeats an address, which may hold a token."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from tbx_callbacks._config.validation import Parsed, SpecError, located, short
from tbx_callbacks._extensions import suggest
from tbx_callbacks._notify.address import Address, AddressError
from tbx_callbacks._notify.alerts import Target
from tbx_callbacks._notify.message import EVENTS

_KEYS = ("url", "on")
_WORD = re.compile(r"[A-Za-z_]{1,12}")  # no address
_MOST = 10  # each has a thread


def parse_events(names: object) -> tuple[str, ...]:
    """Parses a list of events.

    Raises:
        SpecError: it is no list of at least one known event.
    """
    if not isinstance(names, Sequence) or isinstance(names, (str, bytes)) or not names:
        raise SpecError(f" must be a list of {', '.join(EVENTS)}, got {_kind(names)}; leave it out for all of them")
    for name in names:
        if name not in EVENTS:
            known = suggest(name if isinstance(name, str) else "", EVENTS, what="events")
            raise SpecError(f" must name known events, got {short(name, 20)}; {known}")
    return tuple(event for event in EVENTS if event in names)


def parse_address(text: object) -> Address:
    """Parses a URL.

    Raises:
        SpecError: it is none.
    """
    try:
        return Address(text)  # type: ignore[arg-type]
    except AddressError as error:
        raise SpecError(f" {error}") from None


def _targets(entries: object) -> tuple[Target, ...]:
    if not isinstance(entries, Sequence) or isinstance(entries, (str, bytes)) or len(entries) > _MOST:
        raise SpecError(f" must be a list of at most {_MOST} receivers, got {_kind(entries)}; start each with a dash")
    targets: list[Target] = []
    for index, entry in enumerate(entries):
        with located(f"[{index}]"):
            target = _target(entry)
            if any(target.address == other.address for other in targets):
                raise SpecError(" must have an address of its own, got one twice; put all its events into one `on`")
            targets.append(target)
    return tuple(targets)


def _target(entry: object) -> Target:
    if not isinstance(entry, Mapping):
        return Target(parse_address(entry))
    options = {"on" if key is True else key: value for key, value in entry.items()}  # YAML 1.1 reads `on` as true
    for key in options:
        if key not in _KEYS:
            shown = key if isinstance(key, str) and _WORD.fullmatch(key) else "another key"
            raise SpecError(f" must be a URL, or url and on, got {shown}; write url: and on:")
    if "url" not in options:
        raise SpecError(" must name a url; add url: ${NAME}")
    with located(".url"):
        address = parse_address(options["url"])
    with located(".on"):
        return Target(address, parse_events(options["on"]) if "on" in options else EVENTS)


def _kind(value: object) -> str:
    """Describes a value without its text."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return f"{len(value)} entries"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _schema() -> dict[str, Any]:
    url = {"type": "string", "pattern": r"^(\$\{[A-Za-z_][A-Za-z0-9_]*\}|[A-Za-z][A-Za-z0-9+.-]*://.)"}
    events = {"type": "array", "items": {"enum": list(EVENTS)}, "minItems": 1}
    mapping = {
        "type": "object",
        "properties": {"url": url, "on": events},
        "required": ["url"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": {"anyOf": [url, mapping]}, "maxItems": _MOST}


NotifyTargets = Annotated[
    tuple[Target, ...],
    Parsed(_targets, _schema),
    Field(description="Receivers of notifications: a URL, or url and on, a list of events."),
]
