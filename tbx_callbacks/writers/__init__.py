"""Writers store the values of each step; `TensorBoardWriter` is the one that trainings use."""

from __future__ import annotations

from tbx_callbacks.writers.base import MemorySink, NullSink, Sink

__all__ = ["MemorySink", "NullSink", "Sink"]
