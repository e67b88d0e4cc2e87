"""Counts histograms on an accelerator with torch operators, without host sync. Only counts leave the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tbx_callbacks._stats.flat import moved

_PIECE = 1 << 22  # elements at a time: the buffers for one piece are all the extra memory
_LANES = 512  # parallel tables, so that few threads contend for one bin


def bounds(groups: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Returns the same as `histogram.value_ranges`, for flat tensors."""
    return [_bounds(tensors) for tensors in groups]


def count(groups: Sequence[Sequence[Tensor]], ranges: Sequence[Tensor], bins: Sequence[int]) -> list[Tensor]:
    """Returns the same as `histogram.count`, for flat tensors."""
    return [_count(*arguments) for arguments in zip(groups, ranges, bins, strict=True)]


def _bounds(tensors: Sequence[Tensor]) -> Tensor:
    parts = [_bounds_on_device(part) for part in _by_device(tensors).values()]
    device_bounds = torch.stack([moved(part, parts[0].device).to(parts[0].dtype) for part in parts])
    return torch.stack([device_bounds[:, 0].amin(), device_bounds[:, 1].amax()])


def _count(tensors: Sequence[Tensor], bounds: Tensor, bins: int) -> Tensor:
    low, high = bounds
    several = high > low
    left, width = torch.where(several, low, low - 0.5), torch.where(several, high - low, 1.0)
    parts = [
        _count_on_device(part, moved(left, device), moved(width, device), bins)
        for device, part in _by_device(tensors).items()
    ]
    return torch.cat([bounds, torch.stack([moved(part, bounds.device) for part in parts]).sum(0)])


def _by_device(tensors: Sequence[Tensor]) -> dict[torch.device, list[Tensor]]:
    groups_by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        groups_by_device.setdefault(tensor.device, []).append(tensor)
    return groups_by_device


def _bounds_on_device(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the smallest and largest finite element of flat tensors on one device, `[2]`; `(inf, -inf)` if none."""
    lows, highs = [], []
    for tensor in tensors:
        for piece in tensor.split(_PIECE):
            if piece.numel():
                values = _widen(piece)
                finite = torch.isfinite(values)
                lows.append(torch.where(finite, values, torch.inf).amin())
                highs.append(torch.where(finite, values, -torch.inf).amax())
    kind = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    if not lows:  # create it on the device, because a copy from the host would wait
        none = torch.full((2,), torch.inf, dtype=kind, device=tensors[0].device)
        return torch.stack([none[0], -none[1]])
    return torch.stack([torch.stack(lows).amin(), torch.stack(highs).amax()]).to(kind)


def _count_on_device(tensors: Sequence[Tensor], left: Tensor, width: Tensor, bins: int) -> Tensor:
    """Returns the sum, the sum of squares and the counts, `[2 + bins]`, in the type of the 0-d `left` and `width`."""
    table = torch.zeros(_LANES * (bins + 1), dtype=torch.int64, device=left.device)
    moments = torch.zeros(2, dtype=left.dtype, device=left.device)
    scale = bins / width
    for tensor in tensors:
        for piece in tensor.split(_PIECE):
            if piece.numel() == 0:
                continue
            values = _widen(piece)
            finite = torch.isfinite(values)
            clean = torch.where(finite, values, 0)
            exact = clean.to(moments.dtype)
            moments += torch.stack([exact.sum(), torch.dot(exact, exact)])
            index = ((exact - left) * scale).long().clamp_(0, bins - 1)
            lane = torch.arange(piece.numel(), device=piece.device) % _LANES
            # non-finite elements go to the extra bin
            key = torch.where(finite, index, bins).add_(lane, alpha=bins + 1)
            table.scatter_add_(0, key, torch.ones_like(key))
    counts = table.view(_LANES, bins + 1).sum(0)[:bins]
    return torch.cat([moments, counts.to(moments.dtype)])


def _widen(piece: Tensor) -> Tensor:
    is_integer = not piece.dtype.is_floating_point and piece.dtype != torch.bool
    if piece.dtype == torch.float64 or (is_integer and piece.device.type != "mps"):
        return piece.double()
    return piece.float()
