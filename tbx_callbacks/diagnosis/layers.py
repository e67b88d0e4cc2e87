"""Series by layer, and layers in order of depth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from tbx_callbacks.series import Floats, Series


def outermost(series: Mapping[str, Series]) -> dict[str, Series]:
    """By group instead of by tag, without groups inside others: a layer's parameters where the layer is there too."""
    groups = {tag.partition("/")[2]: one for tag, one in series.items()}
    return {name: one for name, one in groups.items() if not _prefixes(name, groups)}


def _prefixes(name: str, groups: Mapping[str, object]) -> list[str]:
    parts = name.split(".")
    return [outer for n in range(1, len(parts)) if (outer := ".".join(parts[:n])) in groups]


def depth(name: str) -> tuple[str, int] | None:
    """The stack that a layer, or something in it, belongs to and its number there; None for embeddings and heads."""
    found = re.match(r"(.*?)\.(\d+)(?:\.|$)", name)
    return (found[1], int(found[2])) if found else None


def stack(norms: Mapping[str, Series]) -> dict[str, Floats]:
    """The largest stack of numbered layers, from the first to the last: layer -> norms over steps, of all its parts."""
    parts: dict[str, dict[int, list[Series]]] = {}
    for name, series in norms.items():
        place = depth(name)
        if place is not None:
            parts.setdefault(place[0], {}).setdefault(place[1], []).append(series)
    if not parts:
        return {}
    name, layers = max(parts.items(), key=lambda one: len(one[1]))
    return {f"{name}.{number}": _together(layers[number]) for number in sorted(layers)}


def _together(parts: Iterable[Series]) -> Floats:
    """The norm of all parts, on as many points as all of them have."""
    values = [series.values for series in parts]
    shortest = min(map(len, values))
    return np.asarray(np.sqrt(sum(np.square(one[-shortest:]) for one in values)))
