"""Where a tensor's elements live."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def sharding(tensors: Iterable[Tensor]) -> str | None:
    """How any of the tensors is spread over ranks, in words for a warning; None when all are whole on this rank."""
    for tensor in tensors:
        kind = type(tensor)
        if kind.__module__.startswith("torch.distributed.tensor"):
            return "DTensor (FSDP2 or tensor parallel)"
        if kind.__name__ == "FlatParameter" or hasattr(tensor, "_is_flat_param"):
            return "FSDP"
        if hasattr(tensor, "ds_id"):
            return "DeepSpeed ZeRO-3"
    return None
