"""Builds tensors, sets and the host sync check that the CUDA tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tbx_callbacks._config.metric_set import load_config

TYPES = [torch.float32, torch.bfloat16, torch.float16]
FULL = {"every": 1, "strict": True, "metrics": sorted({item.name for item in load_config("full").items})}


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raises on every call that waits for the device."""
    known = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(known)


def tensors(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    bad = torch.randn(5000)
    bad[::1000] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.nan, 1.0])
    return [torch.randn(300, 1000).to(dtype), torch.randn(7).to(dtype), torch.zeros(0, dtype=dtype), bad.to(dtype)]
