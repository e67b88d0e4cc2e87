"""Defines `Writer`, the interface of writers, and writers that keep values in memory or discard them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tbx_callbacks.metrics.host_values import FinalValue


class Writer(Protocol):
    """Stores the values of each step."""

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes all values of one step. Must not raise into the training loop or wait for a disk."""

    def flush(self) -> None:
        """Returns when all values written before are stored."""

    def close(self) -> None:
        """Flushes and closes files; do not write afterwards."""


class NullWriter:
    """Discards all values; ranks other than 0 use it."""

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class MemoryWriter:
    """Keeps all values in memory, for tests and notebooks."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, dict[str, FinalValue]]] = []
        self.closed = False

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Keeps a copy of the values."""
        self.batches.append((step, dict(values)))

    def flush(self) -> None:
        """Does nothing, because values are stored at once."""

    def close(self) -> None:
        """Marks the writer as closed."""
        self.closed = True

    def series(self, tag: str) -> list[tuple[int, Any]]:
        """Returns the steps and values of one tag."""
        return [(step, values[tag]) for step, values in self.batches if tag in values]
