"""What a LightningModule logs, on its way to the callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tbx_callbacks.integrations.lightning.compat import DummyExperiment, Logger


class Listener(Logger):  # type: ignore[misc]
    """A logger of Lightning's own kind that hands on what it is given: once, when Lightning logs it.

    Args:
        take: gets the numbers by name.
        folder: what Lightning may ask any logger for.
    """

    def __init__(self, take: Callable[[Mapping[str, float]], None], folder: str) -> None:
        super().__init__()
        self._take, self._folder = take, folder

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
        self._take(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass
