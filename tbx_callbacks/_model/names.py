"""Cleans parameter names for use in tags, and finds the nearest names to an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized

from tbx_callbacks.tags import clean

_WRAPPERS = re.compile(
    r"(^|(?<=\.))"
    r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_ddp_wrapped_module|_forward_module|base_model\.model)\."
)
# The tensors that `torch.nn.utils.parametrize` stores in place of a parameter, and parameters of the parametrization.
_PARAMETRIZED = re.compile(r"(^|(?<=\.))parametrizations\.([^.]+)\.(original\d*|\d+\..+)$")
# What `torch.nn.utils.spectral_norm` and `prune` store in place of a parameter.
_REPLACED = re.compile(r"(^|(?<=\.))((?:weight|bias)\w*)_orig$")


def clean_parameter_names(names: Sequence[str], model: nn.Module | None = None) -> list[str]:
    """Returns names without the prefixes of wrappers (DDP, FSDP, compile, Fabric, PEFT), unique and valid in a tag.

    A parametrized parameter keeps its own name: `fc.weight` under spectral norm. Where it has several tensors, they get
    suffixes: `fc.weight_original0` under weight norm.

    Args:
        names: the names in the model.
        model: the model, to find wrappers inside it whose prefix is an ordinary word.
    """
    common = [_without_parametrization(_WRAPPERS.sub("", name)) for name in _without_replicas(names, model)]
    taken = {*common}
    common = [plain if (plain := _REPLACED.sub(r"\2", name)) not in taken else name for name in common]
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


def _without_replicas(names: Sequence[str], model: nn.Module | None) -> Sequence[str]:
    """The names without `module.` of DDP and DataParallel anywhere in the model."""
    modules = () if model is None else model.named_modules()
    replicated = [path for path, module in modules if isinstance(module, (DataParallel, DistributedDataParallel))]
    for path in sorted(replicated, key=len, reverse=True):
        prefix = f"{path}." if path else ""
        wrapped = f"{prefix}module."
        names = [prefix + name.removeprefix(wrapped) if name.startswith(wrapped) else name for name in names]
    return names


def _without_parametrization(name: str) -> str:
    found = _PARAMETRIZED.search(name)
    if found is None:
        return name
    _, tensor, part = found.groups()
    return name[: found.start()] + (tensor if part == "original" else f"{tensor}_{part.replace('.', '_')}")


def without_parametrizations(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Returns the model's modules with their paths, except those that compute parameters of others."""
    modules = list(model.named_modules())
    inner = tuple(f"{path}.".lstrip(".") + "parametrizations" for path, module in modules if is_parametrized(module))
    return [(path, module) for path, module in modules if not f"{path}.".startswith(tuple(f"{p}." for p in inner))]


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


def shown(names: Sequence[str]) -> str:
    """Returns the first three names and the number of the others, for messages."""
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def near(pattern: str, names: Sequence[str], most: int = 5) -> list[str]:
    """Returns the `most` names that are most similar to a regex that matched none of them."""
    words = [word for word in re.split(r"[^A-Za-z0-9_]+", pattern) if len(word) > 1]

    def similarity(name: str) -> float:
        parts = name.split(".")
        return sum(max(difflib.SequenceMatcher(None, word, part).ratio() for part in parts) for word in words)

    return sorted(names, key=similarity, reverse=True)[:most]
