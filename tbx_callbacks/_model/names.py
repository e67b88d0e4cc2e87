"""Cleans parameter names for use in tags, and finds the nearest names to an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from tbx_callbacks.tags import clean

_WRAPPERS = re.compile(
    r"(^|(?<=\.))"
    r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_ddp_wrapped_module|_forward_module|base_model\.model)\."
)


def clean_parameter_names(names: Sequence[str]) -> list[str]:
    """Returns names without the prefixes of wrappers (DDP, FSDP, compile, Fabric, PEFT), unique and valid in a tag."""
    common = [_WRAPPERS.sub("", name) for name in names]
    while common and all(name.startswith("module.") for name in common):
        common = [name.removeprefix("module.") for name in common]
    parts: dict[tuple[str, ...], str] = {}  # path of a module -> its clean name, unique among its siblings
    used_paths: set[tuple[str, ...]] = set()
    cleaned = []
    for name in common:
        path: tuple[str, ...] = ()
        clean_path: tuple[str, ...] = ()
        for part in name.split("."):
            path = (*path, part)
            if path not in parts:
                candidate_part = clean(part).lstrip("/") or "_"
                n = 1
                while (*clean_path, f"{candidate_part}_{n}" if n > 1 else candidate_part) in used_paths:
                    n += 1
                parts[path] = f"{candidate_part}_{n}" if n > 1 else candidate_part
                used_paths.add((*clean_path, parts[path]))
            clean_path = (*clean_path, parts[path])
        cleaned.append(".".join(clean_path))
    return unique(cleaned)


_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the user's model inside wrappers (DDP, FSDP, compile, Fabric)."""
    while True:
        names = ("module",) if isinstance(model, (DataParallel, DistributedDataParallel)) else _WRAPPED
        inner = next((model._modules[name] for name in names if name in model._modules), None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def unique(names: Iterable[str]) -> list[str]:
    """Returns the names with `_2`, `_3`, ... appended to duplicates, so that no two tags merge silently."""
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
    """Returns the `most` names that are most similar to a regex that matched none of them."""
    words = [word for word in re.split(r"[^A-Za-z0-9_]+", pattern) if len(word) > 1]

    def similarity(name: str) -> float:
        parts = name.split(".")
        return sum(max(difflib.SequenceMatcher(None, word, part).ratio() for part in parts) for word in words)

    return sorted(names, key=similarity, reverse=True)[:most]
