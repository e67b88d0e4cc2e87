"""Tests the interface of writers, and the writers that keep values in memory or drop them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tbx_callbacks.writers import FinalValue, MemoryWriter, NullWriter, Writer


def test_writer_subclass_needs_only_write() -> None:
    class Last(Writer):
        def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
            self.step = step

    writer = Last()
    writer.write(3, {"a": 1.0})
    writer.purge(2)
    writer.flush()
    writer.close()
    assert vars(writer) == {"step": 3}


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


def test_memory_writer_purged_steps_removed() -> None:
    writer = MemoryWriter("runs/a")
    for step in (1, 2, 3):
        writer.write(step, {"b": float(step), "a": -1.0})
    writer.purge(2)
    writer.write(2, {"c": 5.0, "b": 6.0})
    assert writer.tags == ["b", "a", "c"]
    assert writer.series("b") == [(1, 1.0), (2, 6.0)]
    assert writer.last("b") == 6.0


def test_memory_writer_unknown_tag_lists_similar() -> None:
    writer = MemoryWriter()
    writer.write(1, {"train/loss": 1.0})
    assert writer.series("train/los") == []
    with pytest.raises(KeyError, match=r"tag must have a value, got 'train/los'; did you mean 'train/loss'\?"):
        writer.last("train/los")


def test_null_writer_keeps_nothing() -> None:
    writer = NullWriter()
    writer.write(1, {"a": 1.0})
    writer.purge(1)
    writer.flush()
    writer.close()
    assert vars(writer) == {}
