"""Names from runs, as charts show them."""

from __future__ import annotations

from collections.abc import Iterable


def plain(text: str, most: int = 80) -> str:
    """Text that plotly shows as it is: plotly reads some HTML in names and labels, and templates in `%{...}`."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(shown) > most:
        shown = f"{shown[: most // 2]}...{shown[-most // 2 :]}"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(names: Iterable[str]) -> dict[str, str]:
    """Layers' names without what they share: `bert.encoder.layer.3` is `layer.3`; whole where not unique."""
    by_name = {name: _tail(name) for name in names}
    tails = list(by_name.values())
    return {name: tail if tails.count(tail) == 1 else name for name, tail in by_name.items()}


def _tail(name: str) -> str:
    parts = name.split(".")
    last_number = max((place for place, part in enumerate(parts) if part.isdigit()), default=None)
    start = len(parts) - 1 if last_number is None else max(last_number - 1, 0)
    return ".".join(parts[start:])
