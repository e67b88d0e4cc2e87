"""Defines `DeliveryError`, and describes errors without the address that they name."""

from __future__ import annotations

import socket


class DeliveryError(Exception):
    """A message has not arrived. The text never contains the address.

    Args:
        why: the reason.
        is_final: whether another attempt would fail as well.
    """

    def __init__(self, why: str, *, is_final: bool = False) -> None:
        super().__init__(why)
        self.is_final = is_final


def why(error: BaseException) -> str:
    """Describes an error of the network by its kind: its own text may hold the URL."""
    inner = getattr(error, "reason", None)  # of a URLError
    error = inner if isinstance(inner, BaseException) else error
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "the host is unknown"
    return type(error).__name__
