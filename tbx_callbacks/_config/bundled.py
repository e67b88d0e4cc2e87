"""Files that come with the package."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parents[1]


def bundled(folder: str) -> Path:
    """A folder that the wheel holds inside the package and a checkout beside it."""
    inside = _HERE / folder
    return inside if inside.is_dir() else _HERE.parent / folder


def bundled_sets() -> dict[str, Path]:
    """The metric sets that come with the package, by name."""
    return {path.stem: path for path in sorted(bundled("configs").glob("*.yaml"))}
