"""Memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import psutil
import torch

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import NOTHING, STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Max, Value

_GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Memory of the process, in GiB; the largest over ranks.

    `memory/rss_gib` is the resident set now; `memory/peak_gib` and `memory/reserved_gib` are torch's peaks of allocated
    and reserved CUDA memory since the start of the process, written where there is CUDA. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {
        "memory/rss_gib": "GiB",
        "memory/peak_gib": "GiB",
        "memory/reserved_gib": "GiB",
    }
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        values: dict[str, Value] = {"memory/rss_gib": Max(psutil.Process().memory_info().rss / _GIB)}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            values["memory/peak_gib"] = Max(torch.cuda.max_memory_allocated() / _GIB)
            values["memory/reserved_gib"] = Max(torch.cuda.max_memory_reserved() / _GIB)
        return values
