"""Defines `Writer`, the interface of writers, and writers that keep values in memory or discard them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tbx_callbacks._extensions import suggest
from tbx_callbacks.metrics.host_values import FinalValue


class Writer(Protocol):
    """Stores the values of each step. A subclass needs only `write`; the other methods do nothing by default.

    A training builds its writers on the rank that writes, as `MyWriter(log_dir, **options)`:

        class CsvWriter(Writer):
            def __init__(self, log_dir: str, name: str = "scalars.csv") -> None:
                self.file = open(f"{log_dir}/{name}", "a", encoding="utf-8")

            def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
                for tag, value in values.items():
                    if isinstance(value, float):
                        self.file.write(f"{step},{tag},{value}\\n")

            def close(self) -> None:
                self.file.close()

    Beside TensorBoard, a writer runs on a thread of its own: it may wait for a disk or a network, and raise.
    """

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes values of one step, by tag. A step may come several times, with different tags.

        Args:
            step: number of finished optimizer steps; 0 for values that describe the run as a whole.
            values: a float for scalars, or one of the types that `tbx_callbacks.writers` exports.
        """

    def purge(self, step: int) -> None:
        """Hides or removes the values of this step and later ones, because a resumed run trains them again."""
        return

    def flush(self) -> None:
        """Returns when all values written before are stored."""
        return

    def close(self) -> None:
        """Stores all values and frees resources, at the end of the run. Nothing is written afterwards."""
        return


class NullWriter(Writer):
    """Discards all values; ranks other than 0 use it."""

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Does nothing."""


class MemoryWriter(Writer):
    """Keeps all values in memory, for tests and notebooks.

        writer = MemoryWriter()
        writer.write(1, {"train/loss": 0.9})
        writer.write(2, {"train/loss": 0.7, "train/accuracy": 0.5})
        assert writer.tags == ["train/loss", "train/accuracy"]
        assert writer.series("train/loss") == [(1, 0.9), (2, 0.7)]
        assert writer.last("train/loss") == 0.7

    `batches` holds the arguments of every call of `write`; `closed` is whether the writer was closed.

    Args:
        log_dir: folder of the run; not used.
    """

    def __init__(self, log_dir: str = "") -> None:
        self.log_dir = log_dir
        self.batches: list[tuple[int, dict[str, FinalValue]]] = []
        self.closed = False

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Keeps a copy of the values."""
        self.batches.append((step, dict(values)))

    def purge(self, step: int) -> None:
        """Removes the values of this step and later ones."""
        self.batches = [batch for batch in self.batches if batch[0] < step]

    def close(self) -> None:
        """Marks the writer as closed."""
        self.closed = True

    @property
    def tags(self) -> list[str]:
        """All tags, in the order in which they were first written."""
        return list(dict.fromkeys(tag for _, values in self.batches for tag in values))

    def series(self, tag: str) -> list[tuple[int, FinalValue]]:
        """Returns the steps and values of one tag, as they were written; empty if there are none."""
        return [(step, values[tag]) for step, values in self.batches if tag in values]

    def last(self, tag: str) -> FinalValue:
        """Returns the value that was written last under a tag.

        Raises:
            KeyError: nothing was written under this tag.
        """
        series = self.series(tag)
        if not series:
            raise KeyError(f"tag must have a value, got {tag!r}; {suggest(tag, self.tags, what='tags')}")
        return series[-1][1]
