"""Whether modules are split over ranks that work on one batch together, beside data parallelism."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor


def split_layer(model: nn.Module) -> str | None:
    """The name of a parameter that tensor parallelism splits; None when all are whole, or spread by FSDP2 alone.

    The attributes of FSDP2 that say it are private; tested on torch 2.13.
    """
    by_data = {id(part.sharded_param) for part in _fsdp_parameters(model) if not part.is_dtensor}
    return next((n for n, p in model.named_parameters() if isinstance(p, DTensor) and id(p) not in by_data), None)


def _fsdp_parameters(model: nn.Module) -> list[Any]:
    found = []
    for module in model.modules():
        of_fsdp: Any = getattr(module, "_get_fsdp_state", None)
        state = of_fsdp() if of_fsdp is not None else None
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        found += [part for group in groups if group is not None for part in group.fsdp_params]
    return found
