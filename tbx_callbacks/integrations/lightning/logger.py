"""Forwards the values that a LightningModule logs to the callback."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from tbx_callbacks.integrations.lightning.compat import Logger
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter


class Listener(Logger):  # type: ignore[misc]
    """A Lightning logger that forwards each logged value once, when Lightning logs it.

    With `logger=False` in the Trainer it is the module's `self.logger`. It does not keep the callback alive.

    Args:
        on_logs: a method that receives the values by name, and Lightning's step.
        on_hparams: a method that receives hyper-parameters.
        writer: a method that returns the run's `SummaryWriter`, the module's `self.logger.experiment`.
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
        self._on_logs, self._on_hparams = weakref.WeakMethod(on_logs), weakref.WeakMethod(on_hparams)
        self._writer, self._folder = weakref.WeakMethod(writer), folder

    def __reduce__(self) -> tuple[Any, ...]:
        return _Silent, (self._folder,)  # a copy of the trainer has another callback

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
        writer = self._writer()
        return NullSummaryWriter() if writer is None else writer()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if (on_logs := self._on_logs()) is not None:
            on_logs(metrics, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        if (on_hparams := self._on_hparams()) is not None:
            on_hparams(params)


class _Silent(Listener):
    """A listener without a callback."""

    def __init__(self, folder: str) -> None:
        super().__init__(self._ignore, self._ignore, self._ignore, folder)

    def _ignore(self, *arguments: Any) -> Any:
        return NullSummaryWriter()


def is_tensorboard(logger: Any) -> bool:
    """Whether a logger of the Trainer is Lightning's `TensorBoardLogger`, or derives from it."""
    return any(parent.__name__ == "TensorBoardLogger" for parent in type(logger).__mro__)
