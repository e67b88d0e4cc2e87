"""Defines writers that stand beside the TensorBoard writer in tests, and describes how to build them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tbx_callbacks.writers import FinalValue, MemoryWriter, Writer


@dataclass
class Spec:
    """Builds writers with a function of the run's folder, and keeps them for the test."""

    make: Callable[..., Writer]
    options: Mapping[str, Any] = field(default_factory=dict)
    built: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.make.__name__

    def build(self, log_dir: str) -> Writer:
        self.built.append(self.make(log_dir, **self.options))
        return self.built[-1]  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "built": []}


class FailingWriter(MemoryWriter):
    """Raises an error in the n-th call of a method."""

    def __init__(self, log_dir: str, method: str, error: type[BaseException] = OSError, call: int = 1) -> None:
        super().__init__(log_dir)
        self.calls: list[str] = []
        self._fails = method, error, call
        self._count("__init__")

    def _count(self, method: str) -> None:
        self.calls.append(method)
        name, error, call = self._fails
        if method == name and self.calls.count(method) == call:
            raise error("no room")

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        self._count("write")
        super().write(step, values)

    def purge(self, step: int) -> None:
        self._count("purge")
        super().purge(step)

    def flush(self) -> None:
        self._count("flush")

    def close(self) -> None:
        self._count("close")
        super().close()


class HangingWriter(MemoryWriter):
    """Blocks in one method until `release` is set, or for ever."""

    def __init__(self, log_dir: str, method: str, release: threading.Event) -> None:
        super().__init__(log_dir)
        self._method, self._release = method, release
        self._wait("__init__")

    def _wait(self, method: str) -> None:
        if method == self._method:
            self._release.wait()

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        self._wait("write")
        super().write(step, values)

    def close(self) -> None:
        self._wait("close")
        super().close()
