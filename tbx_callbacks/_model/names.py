"""Names: which ones TensorBoard keeps as they are, and what to offer when one is unknown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from tbx_callbacks.tags import clean

_WRAPPERS = re.compile(
    r"(^|(?<=\.))"
    r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_ddp_wrapped_module|base_model\.model)\."
)


def clean_parameter_names(names: Sequence[str]) -> list[str]:
    """The model's own names without what wrappers (DDP, FSDP, compile, PEFT) add; unique and legal in a tag."""
    common = [_WRAPPERS.sub("", name) for name in names]
    while common and all(name.startswith("module.") for name in common):
        common = [name.removeprefix("module.") for name in common]
    parts: dict[tuple[str, ...], str] = {}  # a module's own path -> its clean name, unique among its siblings
    taken: set[tuple[str, ...]] = set()
    cleaned = []
    for name in common:
        path: tuple[str, ...] = ()
        clean_path: tuple[str, ...] = ()
        for part in name.split("."):
            path = (*path, part)
            if path not in parts:
                wanted = clean(part).lstrip("/") or "_"
                n = 1
                while (*clean_path, f"{wanted}_{n}" if n > 1 else wanted) in taken:
                    n += 1
                parts[path] = f"{wanted}_{n}" if n > 1 else wanted
                taken.add((*clean_path, parts[path]))
            clean_path = (*clean_path, parts[path])
        cleaned.append(".".join(clean_path))
    return unique(cleaned)


def unique(names: Iterable[str]) -> list[str]:
    """The names with `_2`, `_3`, ... after those that came before: nothing is merged silently."""
    result: list[str] = []
    seen: set[str] = set()
    for name in names:
        candidate, n = name, 1
        while candidate in seen:
            n += 1
            candidate = f"{name}_{n}"
        seen.add(candidate)
        result.append(candidate)
    return result


def near(pattern: str, names: Sequence[str], most: int = 5) -> list[str]:
    """The names that look most like a regex that matched none of them."""
    words = [word for word in re.split(r"[^A-Za-z0-9_]+", pattern) if len(word) > 1]

    def likeness(name: str) -> float:
        parts = name.split(".")
        return sum(max(difflib.SequenceMatcher(None, word, part).ratio() for part in parts) for word in words)

    return sorted(names, key=likeness, reverse=True)[:most]
