"""Gives new Lightning Trainers the callback, which Lightning asks for by the entry point `callbacks_factory`."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import Any

from tbx_callbacks.autolog.settings import Settings, active

logger = logging.getLogger(__name__)

GROUPS = {
    "lightning.pytorch": "lightning.pytorch.callbacks_factory",
    "pytorch_lightning": "pytorch_lightning.callbacks_factory",
}
"""Group of the entry point, by package; a release of one package may read the group of the other."""


def callbacks() -> list[Any]:
    """The callbacks for a new Trainer: none without settings, from `init`, `tbx-callbacks run` or the environment.

    Raises:
        ConfigError: the metric set is invalid.
    """
    settings = active() or Settings.from_environment()
    if settings is None:
        return []
    from tbx_callbacks._config.errors import ConfigError

    try:
        from tbx_callbacks.autolog.lightning_callback import AutomaticLightningCallback

        return [AutomaticLightningCallback(settings.config, log_dir=settings.log_dir)]
    except ConfigError:
        raise
    except Exception as error:
        logger.warning("this trainer is not logged: %s; pass TbxLightningCallback to it", error)
        return []


def is_installed() -> bool:
    """Whether the metadata of an installed package names this module to Lightning."""
    return any(point.module == __name__ for group in GROUPS.values() for point in entry_points(group=group))
