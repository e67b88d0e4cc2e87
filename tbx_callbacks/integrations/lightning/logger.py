"""Forwards the values that a LightningModule logs to the callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tbx_callbacks.integrations.lightning.compat import DummyExperiment, Logger


class Listener(Logger):  # type: ignore[misc]
    """A Lightning logger that forwards each logged value once, when Lightning logs it.

    Args:
        on_logs: receives the values by name.
        folder: the `save_dir` that Lightning requires of a logger.
    """

    def __init__(self, on_logs: Callable[[Mapping[str, float]], None], folder: str) -> None:
        super().__init__()
        self._on_logs, self._folder = on_logs, folder

    @property
    def name(self) -> str:
        return "tbx_callbacks"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return self._folder

    @property
    def experiment(self) -> Any:
        return DummyExperiment()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._on_logs(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass
