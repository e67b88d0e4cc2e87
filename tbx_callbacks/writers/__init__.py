"""Exports `Writer`, the interface of writers, and its simplest implementations; trainings use `TensorBoardWriter`."""

from __future__ import annotations

from tbx_callbacks.writers.base import MemoryWriter, NullWriter, Writer

__all__ = ["MemoryWriter", "NullWriter", "Writer"]
