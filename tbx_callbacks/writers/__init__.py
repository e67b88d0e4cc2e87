"""Writers store the values of each step; `TensorBoardWriter` is the one that trainings use."""

from __future__ import annotations

from tbx_callbacks.writers.base import MemoryWriter, NullWriter, Writer

__all__ = ["MemoryWriter", "NullWriter", "Writer"]
