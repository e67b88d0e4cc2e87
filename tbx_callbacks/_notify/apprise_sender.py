"""Sends a message through apprise, which knows chats, mail and push services; the only importer of apprise."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tbx_callbacks._notify.errors import DeliveryError
from tbx_callbacks._notify.message import Message

_KINDS = {"error": "failure", "warning": "warning", "info": "info"}
_LOGGERS = ("apprise", "requests", "urllib3", "urllib3.connectionpool")
"""Their messages contain URLs."""


def load(url: str) -> Any:
    """Returns an Apprise object with this URL.

    Raises:
        DeliveryError: apprise is not installed, or does not know the URL.
    """
    try:
        with _silent():
            import apprise
    except ImportError:
        raise DeliveryError(
            'it needs apprise, which is not installed; run: pip install "tbx-callbacks[notify]"', is_final=True
        ) from None
    with _silent(), _nameless():
        target = apprise.Apprise()
        is_known = bool(target.add(url))
    if not is_known:
        raise DeliveryError("apprise does not know such a URL; see its list of services", is_final=True)
    return target


def send(url: str, message: Message) -> None:
    """Sends a message, once.

    Raises:
        DeliveryError: it has not arrived.
    """
    target = load(url)
    with _silent(), _nameless():
        # Not target.notify: it logs on threads of its own, which `_silent` does not know.
        kind = _KINDS[message.severity]
        arrived = [service.notify(title=message.title, body=message.text, notify_type=kind) for service in target]
    if not all(arrived):
        raise DeliveryError("the service has not accepted it")


@contextmanager
def _nameless() -> Iterator[None]:
    """Reduces errors to their type: their texts may hold the URL."""
    try:
        yield
    except Exception as error:
        raise DeliveryError(f"apprise failed with {type(error).__name__}") from None


@contextmanager
def _silent() -> Iterator[None]:
    """Drops what this thread logs through the libraries below."""
    thread = threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(is_of_others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_of_others)
