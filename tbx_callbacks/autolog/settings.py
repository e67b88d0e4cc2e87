"""Defines `Settings`, the metric set and the folder for trainers whose code does not mention this package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbx_callbacks.integrations.session import ConfigSource

CONFIG = "TBX_CALLBACKS"
"""Environment variable: a metric set, for the trainers that read it (Lightning), and for child processes."""
LOG_DIR = "TBX_CALLBACKS_LOGDIR"
"""Environment variable: the folder of the run, beside `TBX_CALLBACKS`."""


@dataclass(frozen=True)
class Settings:
    """Arguments of the callbacks that are created without the user's code.

    Args:
        config: see `Session`.
        log_dir: see `Session`.
    """

    config: ConfigSource = "default"
    log_dir: str | None = None

    @classmethod
    def from_environment(cls) -> Settings | None:
        """The settings of the environment; None if `TBX_CALLBACKS` is not set, or empty."""
        config = os.environ.get(CONFIG)
        return cls(config, os.environ.get(LOG_DIR) or None) if config else None


class _Active:
    settings: Settings | None = None


_active = _Active()


def active() -> Settings | None:
    """The settings that every new trainer gets; None if trainers are left alone."""
    return _active.settings


def activate(settings: Settings) -> None:
    """Sets the settings that every new trainer gets."""
    _active.settings = settings


def deactivate(settings: Settings) -> None:
    """Leaves new trainers alone, if these are the active settings."""
    if _active.settings is settings:
        _active.settings = None
