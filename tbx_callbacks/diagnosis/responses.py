"""What is done about a finding while the run trains: the grammar of `rules:` beside the thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tbx_callbacks.names import suggest

ACTIONS = ("warn", "stop", "checkpoint")
OWN_KEYS = ("action", "call")  # beside a rule's thresholds
NOT_RULES = ("every", "others")  # keys of `rules:` that name no rule


class RuleError(ValueError):
    """An entry of `rules:` that cannot be used; the message starts with its place."""


@dataclass(frozen=True)
class Response:
    """What is done beside saying it, once: some of ACTIONS, and a function `package.function` that gets the finding."""

    actions: tuple[str, ...] = ("warn",)
    call: str = ""


def taken_apart(options: object, where: str) -> tuple[Response, dict[str, object]]:
    """The response and the thresholds of a rule's options: an action, several, or a mapping of both.

    Raises:
        RuleError: an unknown action, or something else than these.
    """
    if options is None:
        return Response(), {}
    if isinstance(options, (str, list)):
        return Response(_actions(options, where)), {}
    if not isinstance(options, Mapping):
        raise RuleError(f"{where} must be an action, a mapping of thresholds, or off, got {options!r}")
    call = options.get("call", "")
    if not isinstance(call, str) or (call == "" and "call" in options):
        raise RuleError(f"{where}.call must be the name of a function, as package.function, got {call!r}")
    thresholds = {str(key): value for key, value in options.items() if key not in OWN_KEYS}
    return Response(_actions(options.get("action", "warn"), f"{where}.action"), call), thresholds


def _actions(given: object, where: str) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not listed:
        raise RuleError(
            f"{where} must be an action or a list of actions, got {given!r}; {suggest('', ACTIONS, what='actions')}"
        )
    for action in listed:
        if action not in ACTIONS:
            known = suggest(str(action), ACTIONS, what="actions")
            raise RuleError(f"{where} must be a known action, got {action!r}; {known}")
    return tuple(action for action in ACTIONS if action in listed)
