"""Metrics that cannot be right where several processes train: they are left out, with one warning that says why."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tbx_callbacks.facts import Setup
from tbx_callbacks.items import Item
from tbx_callbacks.ranks import is_rank_zero, world_size
from tbx_callbacks.replicas import apart
from tbx_callbacks.source import Source
from tbx_callbacks.together import Together

logger = logging.getLogger(__name__)

_OF_ALL_RANKS = ("activations", "axis", "input_share", "memory", "nonfinite", "outputs", "throughput", "train_accuracy")


def readable(items: Sequence[Item], setup: Setup, source: Source, ranks: Together | None) -> list[Item]:
    """The items that can be right with these ranks; None of them where there is one, or where the others do not log."""
    different = None if setup.sharding else apart(source.parameters, ranks, source.pieces)
    items = _whole(items, setup.sharding or different, *(["activations"] if different else []))
    return _alone(items, spread=source.spread) if ranks is None and world_size() > 1 else items


def _whole(items: Sequence[Item], sharding: str | None, *also: str) -> list[Item]:
    """The items that can be right: a shard's norm is not the parameter's, so none is written in its place.

    `also` are further metrics that cannot be.
    """
    if sharding is None:
        return list(items)
    left_out = sorted({item.name for item in items if item.select is not None or item.name in also})
    if left_out and is_rank_zero():
        logger.warning(
            "parameters are spread over ranks by %s, which these metrics cannot read yet: %s; they are left out",
            sharding,
            ", ".join(left_out),
        )
    return [item for item in items if item.name not in left_out]


def _alone(items: Sequence[Item], *, spread: bool) -> list[Item]:
    """The items that are right on one of several ranks, where the others do not log: copies are, shares are not."""
    left_out = {item.name for item in items if item.name in _OF_ALL_RANKS or (spread and item.select is not None)}
    if left_out:
        logger.warning(
            "without the other ranks these would be one rank's share and are left out: %s", ", ".join(sorted(left_out))
        )
    return [item for item in items if item.name not in left_out]
