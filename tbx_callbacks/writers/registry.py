"""Defines WRITERS, the bundled writer classes by name, and finds those of other packages.

Another package names its writers in the entry point group `tbx_callbacks.writers`.
Any writer can also be named by the dotted path of its class.
"""

from __future__ import annotations

from tbx_callbacks._extensions import ExtensionError, Registry
from tbx_callbacks.writers.base import Writer
from tbx_callbacks.writers.json_lines import JsonLinesWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

TENSORBOARD = "tensorboard"
WRITERS: dict[str, type[Writer]] = {TENSORBOARD: TensorBoardWriter, "json_lines": JsonLinesWriter}


def _check(loaded: object, _name: str | None) -> type[Writer]:
    if not isinstance(loaded, type):
        raise ExtensionError(f"it must be a class, got {type(loaded).__name__} {loaded!r}; name the class itself")
    if getattr(loaded, "write", Writer.write) is Writer.write:
        raise ExtensionError(f"it must define write(step, values), but {loaded.__name__} does not; see Writer")
    if not callable(getattr(loaded, "flush", None)) or not callable(getattr(loaded, "close", None)):
        raise ExtensionError(f"it must have flush and close; derive {loaded.__name__} from Writer")
    return loaded


WRITER_CLASSES = Registry("writer", WRITERS, _check)
"""Finds a writer by the name of a bundled one, of an entry point, or by its dotted path."""
