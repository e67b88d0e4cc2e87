"""Defines `SessionHolder`, which offers users the run of the session that a callback or loop holds."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, NoReturn

from torch import Tensor

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.metric_set import Config
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.integrations.arguments import refuse_unknown
from tbx_callbacks.integrations.session import ConfigSource, Session
from tbx_callbacks.runs.folders import RunLocation
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter
from tbx_callbacks.writers.tensorboard import LogDirError

logger = logging.getLogger(__name__)


class SessionHolder:
    """Passes `writer`, `log`, `log_dict`, `log_dir`, `step` and `close` on to a session, `_session`.

    Where the trainer keeps its output is unknown at first: set `_session.runs_dir`.

    A copy (copy, pickle) has a session of its own, with the same arguments and without a run.

    Args:
        config: see `Session`.
        log_dir: see `Session`.
        flush_secs: see `Session`.
        max_mib: see `Session`.
        process_group: see `Session`.
    """

    _not_copied: frozenset[str] = frozenset()
    """Names of attributes that belong to one trainer; a copy has their class's values."""

    def __init__(
        self,
        config: ConfigSource = "default",
        *,
        log_dir: str | os.PathLike[str] | None = None,
        flush_secs: float | None = None,
        max_mib: float = 64.0,
        process_group: Any = None,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown(unknown, type(self), SessionHolder)
        self._session = Session(
            config, log_dir=log_dir, flush_secs=flush_secs, max_mib=max_mib, process_group=process_group
        )
        self._session.runs_dir = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._not_copied}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, _session=copy(state["_session"]))

    def _starts(
        self, info: Callable[[], TrainingInfo], location: RunLocation | None, *, step: int, numbered: bool
    ) -> bool:
        """Starts the session, see `Session.start`; returns whether it runs.

        A training that would run without the callback must not end because it cannot be described. One warning says so,
        and the trainer's own numbers are still written.

        Raises:
            ConfigError: the metric set does not fit the model.
            LogDirError: the folder cannot be written.
        """
        try:
            self._session.start(info(), location, step=step, numbered=numbered)
        except (ConfigError, LogDirError):
            raise
        except Exception as error:
            self._session.suspend()
            if self.config.strict:
                raise
            logger.warning("only the trainer's own numbers are written: this training cannot be read; %s", error)
            return False
        return True

    @property
    def config(self) -> Config:
        """The metric set."""
        return self._session.config

    @property
    def log_dir(self) -> str | None:
        """Folder of the run; None before it is known, and on ranks that do not write."""
        return self._session.log_dir

    @property
    def step(self) -> int:
        """Number of finished optimizer steps."""
        return self._session.step

    @property
    def writer(self) -> SummaryWriter | NullSummaryWriter:
        """The run's tensorboardX `SummaryWriter`; on ranks other than 0 a writer that does nothing.

        Raises:
            RuntimeError: the run's folder is not known yet.
            LogDirError: the folder cannot be written.
        """
        return self._session.writer

    def log(self, tag: str, value: Tensor | float) -> None:
        """Logs a user scalar, for example from a loss function.

        Values are averaged on their device until the next point of the set's cadence, without a host sync. Over ranks
        it is the mean of all values that any rank logged under the tag.

        Values that are logged while the model is evaluated are averaged separately for each evaluation. They are
        written at its step as `eval/<tag>`, as `eval/<set>/<tag>` with several evaluation sets, or as `test/<tag>`.

        Raises:
            TypeError: the value is not a number.
            ValueError: the tag contains characters that TensorBoard would rewrite, a metric writes it, or the value is
                not a scalar.
        """
        self._session.log(tag, value)

    def log_dict(self, values: Mapping[str, Tensor | float]) -> None:
        """Logs several user scalars, by tag; see `log`."""
        self._session.log_dict(values)

    def close(self) -> None:
        """Closes the event file. This happens automatically when the process ends.

        The unpublished values of a run that has not ended are written. It is marked as failed in the HParams tab; that
        of a plain loop as ended, unless an exception is known.
        """
        self._session.close()
