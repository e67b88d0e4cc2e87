"""Where numbers go: a sink takes one batch a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tbx_callbacks.metrics.host_values import FinalValue


class Writer(Protocol):
    """The sink seam."""

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Takes all values of one step at once. Never raises into the training loop, never waits for a disk."""

    def flush(self) -> None:
        """Returns when all that was written before is stored."""

    def close(self) -> None:
        """Flushes and lets go of files; nothing may be written after it."""


class NullWriter:
    """Takes everything and keeps nothing: what ranks other than 0 have."""

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class MemoryWriter:
    """Keeps everything in lists, for tests and notebooks."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, dict[str, FinalValue]]] = []
        self.closed = False

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Keeps a copy of the batch."""
        self.batches.append((step, dict(values)))

    def flush(self) -> None:
        """Does nothing: what was written is there."""

    def close(self) -> None:
        """Marks the sink closed."""
        self.closed = True

    def series(self, tag: str) -> list[tuple[int, Any]]:
        """Steps and values of one tag."""
        return [(step, values[tag]) for step, values in self.batches if tag in values]
