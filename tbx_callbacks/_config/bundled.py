"""Locates the files that are bundled with the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled_folder(folder: str) -> Path:
    """A bundled folder: inside the package in a wheel, beside it in a checkout."""
    in_package = _PACKAGE / folder
    return in_package if in_package.is_dir() else _PACKAGE.parent / folder


def bundled_sets() -> dict[str, Path]:
    """The bundled metric sets, by name."""
    return {path.stem: path for path in sorted(bundled_folder("configs").glob("*.yaml"))}
