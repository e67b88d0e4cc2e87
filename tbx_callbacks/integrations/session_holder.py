"""Defines `SessionHolder`, which offers users the run of the session that a callback or loop holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Never

from torch import Tensor

from tbx_callbacks._config.metric_set import Config
from tbx_callbacks.integrations.arguments import refuse_unknown
from tbx_callbacks.integrations.session import ConfigSource, Session
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter


class SessionHolder:
    """Passes `writer`, `log`, `log_dict`, `log_dir`, `step` and `close` on to a session, `_session`.

    Where the trainer keeps its output is unknown at first: set `_session.runs_dir`.

    Args:
        config: see `Session`.
        log_dir: see `Session`.
        flush_secs: see `Session`.
        max_mib: see `Session`.
        process_group: see `Session`.
    """

    def __init__(
        self,
        config: ConfigSource = "default",
        *,
        log_dir: str | os.PathLike[str] | None = None,
        flush_secs: float | None = None,
        max_mib: float = 64.0,
        process_group: Any = None,
        **unknown: Never,
    ) -> None:
        refuse_unknown(unknown, type(self), SessionHolder)
        self._session = Session(
            config, log_dir=log_dir, flush_secs=flush_secs, max_mib=max_mib, process_group=process_group
        )
        self._session.runs_dir = None

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

        A run that has not ended (an exception in the loop) is marked as failed in the HParams tab, and its unpublished
        values are written.
        """
        self._session.close()
