"""Prepares names from runs as labels in charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tbx_callbacks._text import printable


def plain(text: str, most: int = 80) -> str:
    """Escapes text so that plotly shows it unchanged: plotly interprets HTML in names, and templates in `%{...}`."""
    shown = text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
    return printable(shown).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(names: Iterable[str]) -> dict[str, str]:
    """Shortens layer names: `bert.encoder.layer.3` becomes `layer.3`; the full name is kept if not unique."""
    by_name = {name: _tail(name) for name in names}
    number = Counter(by_name.values())
    return {name: tail if number[tail] == 1 else name for name, tail in by_name.items()}


def _tail(name: str) -> str:
    parts = name.split(".")
    last_number = max((index for index, part in enumerate(parts) if part.isdigit()), default=None)
    start = len(parts) - 1 if last_number is None else max(last_number - 1, 0)
    return ".".join(parts[start:])
