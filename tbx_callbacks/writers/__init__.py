"""Writers store the values of each step; `TensorBoardWriter` is the one that trainings use."""

from __future__ import annotations

from tbx_callbacks.writers.base import MemoryWriter, NullWriter, Writer
from tbx_callbacks.writers.tensorboard import LogDirError, TensorBoardWriter

__all__ = ["LogDirError", "MemoryWriter", "NullWriter", "TensorBoardWriter", "Writer"]
