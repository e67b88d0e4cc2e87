"""Prepares and carries out the command `run`: a script whose trainers get the callback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tbx_callbacks._config.bundled import bundled_sets, find_set
from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.yaml_files import read_yaml
from tbx_callbacks._extensions import without_imports
from tbx_callbacks.autolog import settings as environment
from tbx_callbacks.autolog.import_hooks import after_import
from tbx_callbacks.autolog.lightning import GROUPS, is_installed
from tbx_callbacks.autolog.script import Script
from tbx_callbacks.autolog.settings import Settings, activate
from tbx_callbacks.cli.terminal import print_error
from tbx_callbacks.runs.folders import is_remote


@dataclass(frozen=True)
class Launch:
    """A script, and the settings of its trainers. A call runs it.

    The environment gets the settings, too: Lightning and launchers start further processes with the script's own name.
    """

    script: Script
    config: str
    log_dir: str | None

    def __call__(self) -> None:
        os.environ[environment.CONFIG] = self.config
        if self.log_dir is not None:
            os.environ[environment.LOG_DIR] = self.log_dir
        activate(Settings(self.config, self.log_dir))
        # Importing torch earlier would change a script that sets its variables (OMP_NUM_THREADS) first.
        after_import("torch", lambda _: _check_set(self.config))
        try:
            self.script.run()
        except SystemExit as ended:
            if ended.code in (None, 0):
                _report_nothing()
            raise
        _report_nothing()


def prepare(target: str, arguments: Sequence[str], *, config: str, log_dir: str | None, is_module: bool) -> Launch:
    """Checks what can be checked without torch, and makes paths absolute: the script may change its working folder.

    Raises:
        ConfigError: there is no such metric set, or its file is no YAML.
        ScriptError: there is no such script.
    """
    script = Script(target, tuple(arguments), is_module)
    script.check()
    path = find_set(config, Path.cwd())
    read_yaml(path, "a metric set")
    if log_dir is not None and not is_remote(log_dir):
        log_dir = os.path.abspath(os.path.expanduser(log_dir))
    return Launch(script, config if config in bundled_sets() else str(path.absolute()), log_dir)


def _check_set(config: str) -> None:
    """Ends the process if the metric set is wrong, before the script does anything else.

    Code that the set names is imported with the first trainer: now, another import may be half done.
    """
    from tbx_callbacks._config.metric_set import load_config

    try:
        with without_imports():
            load_config(config)
    except ConfigError as error:
        print_error(str(error))
        raise SystemExit(2) from None


def _report_nothing() -> None:
    """Says why a script that has ended well was not logged, on rank 0."""
    if "tbx_callbacks.integrations.session" in sys.modules:  # each callback has one
        return
    if "torch" in sys.modules:
        from tbx_callbacks._distributed.rank import rank_variable

        if rank_variable() is not None:
            return
    if not is_installed() and any(_is_imported(package) for package in GROUPS):
        why = "Lightning does not find this package among the installed ones; install it with pip"
    else:
        why = "no Trainer of transformers or Lightning was created; a loop of your own needs TbxLoop"
    with suppress(OSError, ValueError):  # stderr is closed
        print(f"tbx_callbacks: nothing was logged: {why}", file=sys.stderr, flush=True)


def _is_imported(package: str) -> bool:
    return isinstance(sys.modules.get(package), ModuleType)
