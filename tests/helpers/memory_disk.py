"""Provides a folder in memory, for tests that sync files often."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def memory_folder(otherwise: Path) -> Iterator[Path]:
    """A new folder on a disk in memory if there is one; in another folder if not."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else otherwise) as folder:
        yield Path(folder)
