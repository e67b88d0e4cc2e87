"""Tests the writers that keep values in memory or drop them."""

from __future__ import annotations

from tbx_callbacks.writers.base import MemoryWriter, NullWriter


def test_memory_writer_keeps_copies_of_steps() -> None:
    writer, values = MemoryWriter(), {"a": 1.0}
    writer.write(1, values)
    values["a"] = 9.0
    writer.write(2, {"b": 2.0})
    writer.flush()
    assert writer.batches == [(1, {"a": 1.0}), (2, {"b": 2.0})]
    assert writer.series("a") == [(1, 1.0)]
    assert not writer.closed
    writer.close()
    assert writer.closed


def test_null_writer_keeps_nothing() -> None:
    writer = NullWriter()
    writer.write(1, {"a": 1.0})
    writer.flush()
    writer.close()
    assert vars(writer) == {}
