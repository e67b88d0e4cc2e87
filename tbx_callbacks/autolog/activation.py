"""Defines `init`, which logs every trainer that is created afterwards."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from tbx_callbacks._config.metric_set import Config, load_config
from tbx_callbacks.autolog.settings import Settings, activate, active, deactivate
from tbx_callbacks.integrations.arguments import refuse_unknown
from tbx_callbacks.runs.folders import absolute

if TYPE_CHECKING:
    from tbx_callbacks.integrations.session import ConfigSource


class Autolog:
    """Logs the trainers that are created until `close`; see `init`. A context manager.

    Trainers that exist keep their callback.

    Attributes:
        config: the metric set.
        log_dir: the requested folder; None without one.
    """

    def __init__(self, settings: Settings, config: Config, *, is_owner: bool = True) -> None:
        self._settings, self.config, self._is_owner = settings, config, is_owner
        self.log_dir = settings.log_dir

    def close(self) -> None:
        """Leaves trainers that are created from now on alone. A later `init` may have replaced these settings."""
        if self._is_owner:  # else an earlier call with the same arguments is
            deactivate(self._settings)

    def __enter__(self) -> Autolog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Init:
    """Carries the parameters of `init`, for the error about an unknown one."""

    def __init__(self, config: ConfigSource = "default", *, log_dir: str | os.PathLike[str] | None = None) -> None: ...


def init(
    config: ConfigSource = "default", *, log_dir: str | os.PathLike[str] | None = None, **unknown: NoReturn
) -> Autolog:
    """Logs every transformers and Lightning Trainer that is created afterwards, as if its code passed the callback.

    A Trainer whose code passes the callback itself is left alone. A second call with other arguments replaces the first
    one, for trainers that are created after it. Call it on every rank. Lightning asks this package for callbacks by an
    entry point, so the package must be installed.

    ```python
    tbx_callbacks.init("full")
    trainer = Trainer(...)  # no callback
    trainer.train()
    ```

    Args:
        config: see `Session`.
        log_dir: see `Session`. Each further trainer writes to a folder beside it.

    Raises:
        ConfigError: the metric set is invalid.
    """
    refuse_unknown(unknown, _Init)
    loaded = load_config(config)
    folder = None if log_dir is None else absolute(os.path.expanduser(os.fspath(log_dir)))
    settings = Settings(loaded, folder)
    current = active()
    if current is not None and current == settings:
        return Autolog(current, loaded, is_owner=False)
    activate(settings)
    return Autolog(settings, loaded)
