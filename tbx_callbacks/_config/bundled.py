"""Locates metric sets by name or path, and the other files that are bundled with the package."""

from __future__ import annotations

import os
from pathlib import Path

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.yaml_files import MISSING as NO_FILE
from tbx_callbacks._config.yaml_files import REGULAR, locate
from tbx_callbacks._extensions import suggest
from tbx_callbacks._text import label, short

_SUFFIXES = (".yaml", ".yml")
_PACKAGE = Path(__file__).resolve().parents[1]


def bundled_folder(folder: str) -> Path:
    """A bundled folder: inside the package in a wheel, beside it in a checkout."""
    in_package = _PACKAGE / folder
    return in_package if in_package.is_dir() else _PACKAGE.parent / folder


def bundled_sets() -> dict[str, Path]:
    """The bundled metric sets, by name."""
    return {path.stem: path for path in sorted(bundled_folder("configs").glob("*.yaml"))}


def find_set(source: str, base: Path) -> Path:
    """The file of a metric set.

    Args:
        source: the name of a bundled set, or a path.
        base: the folder of relative paths.

    Raises:
        ConfigError: there is neither.
    """
    sets = bundled_sets()
    looks_like_a_path = os.sep in source or source.endswith(_SUFFIXES)
    if not looks_like_a_path and source in sets:
        return sets[source]
    path, what = locate(source, base)
    if what == REGULAR:
        return path
    if looks_like_a_path or what != NO_FILE:
        is_meant = "" if source.endswith(_SUFFIXES) else f"did you mean log_dir={short(source, 200)}? "
        known = f"bundled sets: {', '.join(sets)}"
        raise ConfigError(f"a metric set must be a YAML file, but {short(source, 200)} {what}; {is_meant}{known}")
    raise ConfigError(
        f"a metric set must be a bundled name or a path, got {short(source)};"
        f" {suggest(label(source), sets, what='sets')}"
    )
