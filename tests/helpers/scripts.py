"""Runs scripts without a change of their code, in this process, and makes this package known to Lightning."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tbx_callbacks.autolog import settings
from tbx_callbacks.autolog.lightning import GROUPS
from tbx_callbacks.cli.run import prepare


@contextmanager
def own_process() -> Iterator[None]:
    """Restores what a script or a command may change in the process that it believes to own."""
    argv, path, main, hook, environment = (
        sys.argv,
        list(sys.path),
        sys.modules["__main__"],
        sys.excepthook,
        {**os.environ},
    )
    folder = Path.cwd()
    try:
        yield
    finally:
        sys.argv, sys.path[:], sys.excepthook = argv, path, hook
        sys.modules["__main__"] = main
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        if (active := settings.active()) is not None:
            settings.deactivate(active)


def run_script(
    script: Path | str,
    *arguments: object,
    config: str = "default",
    log_dir: Path | None = None,
    is_module: bool = False,
) -> None:
    """Does what `tbx-callbacks run` does, to save the start of an interpreter; the script's exceptions pass."""
    with own_process():
        folder = None if log_dir is None else str(log_dir)
        prepare(str(script), [*map(str, arguments)], config=config, log_dir=folder, is_module=is_module)()


def install_entry_points(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names this package to Lightning as its installation does: an older one in the environment may lack that."""
    metadata = folder / "tbx_callbacks-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tbx-callbacks\nVersion: 0.1.0\n")
    lines = [f"[{group}]\ntbx_callbacks = tbx_callbacks.autolog.lightning:callbacks\n" for group in GROUPS.values()]
    (metadata / "entry_points.txt").write_text("".join(lines))
    monkeypatch.syspath_prepend(folder)
