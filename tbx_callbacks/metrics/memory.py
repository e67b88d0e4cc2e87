"""Memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import psutil
import torch
import torch.distributed as dist

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import NOTHING, STEP, Values
from tbx_callbacks.ranks import in_group
from tbx_callbacks.select import Select
from tbx_callbacks.values import Max, RankOfMax, Value

_GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Memory of the process, in GiB; the largest over ranks.

    `memory/rss_gib` is the resident set now; `memory/peak_gib` and `memory/reserved_gib` are torch's peaks of allocated
    and reserved CUDA memory since the start of the process, written where there is CUDA. `memory/largest_rank` is the
    rank that needs most, of peaks where there are any; written with several ranks. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {
        "memory/rss_gib": "GiB",
        "memory/peak_gib": "GiB",
        "memory/reserved_gib": "GiB",
        "memory/largest_rank": "rank",
    }
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        amount = psutil.Process().memory_info().rss
        values: dict[str, Value] = {"memory/rss_gib": Max(amount / _GIB)}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            amount = torch.cuda.max_memory_allocated()
            values["memory/peak_gib"] = Max(amount / _GIB)
            values["memory/reserved_gib"] = Max(torch.cuda.max_memory_reserved() / _GIB)
        if in_group():
            values["memory/largest_rank"] = RankOfMax(amount // 1024, dist.get_rank())
        return values
