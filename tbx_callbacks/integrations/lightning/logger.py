"""Forwards the values that a LightningModule logs to the callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tbx_callbacks.integrations.lightning.compat import Logger
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter


class Listener(Logger):  # type: ignore[misc]
    """A Lightning logger that forwards each logged value once, when Lightning logs it.

    With `logger=False` in the Trainer it is the module's `self.logger`.

    Args:
        on_logs: receives the values by name, and Lightning's step.
        on_hparams: receives hyper-parameters.
        writer: returns the run's `SummaryWriter`, the module's `self.logger.experiment`.
        folder: the `save_dir` that Lightning requires of a logger.
    """

    def __init__(
        self,
        on_logs: Callable[[Mapping[str, float], int | None], None],
        on_hparams: Callable[[Any], None],
        writer: Callable[[], SummaryWriter | NullSummaryWriter],
        folder: str,
    ) -> None:
        super().__init__()
        self._on_logs, self._on_hparams, self._writer, self._folder = on_logs, on_hparams, writer, folder

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
        return self._writer()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._on_logs(metrics, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._on_hparams(params)


def is_tensorboard(logger: Any) -> bool:
    """Whether a logger of the Trainer is Lightning's `TensorBoardLogger`, or derives from it."""
    return any(parent.__name__ == "TensorBoardLogger" for parent in type(logger).__mro__)
