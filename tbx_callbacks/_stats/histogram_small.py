"""Counts many small histograms in one flat pass: a few operators for all of them, instead of a few for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tbx_callbacks._stats.histogram_cpu import Work, holds_float32
from tbx_callbacks._stats.threads import UNSPLIT

SMALL = 1 << 13
_PASS_SIZE = UNSPLIT  # elements per pass


def is_small(tensors: Sequence[Tensor]) -> bool:
    """Whether flat tensors have few enough elements and a supported type for a flat pass."""
    plain = all(tensor.dtype in (torch.float32, torch.bfloat16, torch.float16) for tensor in tensors)
    return plain and 0 < sum(tensor.numel() for tensor in tensors) <= SMALL


def bounds(groups: Sequence[Sequence[Tensor]]) -> list[Tensor | None]:
    """Returns the smallest and largest element of each group, `[2]` float64; None for groups with NaN or Inf."""
    results: list[Tensor | None] = []
    for chosen in _batches([sum(tensor.numel() for tensor in group) for group in groups]):
        values, sizes = _flat([groups[index] for index in chosen])
        lows = torch.segment_reduce(values, "min", lengths=sizes)
        highs = torch.segment_reduce(values, "max", lengths=sizes)
        both = torch.stack([lows, highs], 1).double()
        finite = torch.isfinite(both).all(1).tolist()
        results.extend(row if good else None for row, good in zip(both.unbind(), finite, strict=True))
    return results


def count(works: Sequence[Work], ranges: Tensor) -> list[Tensor | None]:
    """Returns the same as `histogram.count`; `ranges` is `[works, 2]`.

    The result is None for groups with NaN or Inf, and for ranges that float32 cannot represent.
    """
    results: list[Tensor | None] = []
    for chosen in _batches([sum(tensor.numel() for tensor in work.tensors) for work in works]):
        results.extend(_count([works[index] for index in chosen], ranges[chosen]))
    return results


def _count(works: Sequence[Work], ranges: Tensor) -> list[Tensor | None]:
    values, sizes = _flat([work.tensors for work in works])
    rows = max(work.bins for work in works) + 1  # an extra bin for elements at the right edge
    group_ids = _group_of_element(sizes)
    exact = values.double()
    totals = torch.zeros(len(works), dtype=torch.float64).index_add_(0, group_ids, exact)
    squares = torch.zeros(len(works), dtype=torch.float64).index_add_(0, group_ids, exact.square())
    lefts = torch.tensor([work.left for work in works]).index_select(0, group_ids)
    scales = torch.tensor([work.bins / work.width for work in works]).index_select(0, group_ids)
    index = torch.sub(values, lefts).mul_(scales).nan_to_num_().clamp_(0, rows - 1).long().add_(group_ids, alpha=rows)
    counts = torch.bincount(index, minlength=rows * len(works)).view(-1, rows).double()
    all_works, bins = torch.arange(len(works)), torch.tensor([work.bins for work in works])
    counts[all_works, bins - 1] += counts[all_works, bins]
    packed = torch.cat([ranges, torch.stack([totals, squares], 1), counts], 1)
    good = torch.isfinite(squares).tolist()
    return [
        row[: 4 + work.bins] if is_finite and holds_float32(work) else None
        for work, row, is_finite in zip(works, packed.unbind(), good, strict=True)
    ]


def _flat(groups: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    sizes = torch.tensor([sum(tensor.numel() for tensor in group) for group in groups])
    return torch.cat([tensor.float() for group in groups for tensor in group]), sizes


def _group_of_element(sizes: Tensor) -> Tensor:
    """Returns the group index of each element. Avoids repeat_interleave, which waits for all threads of torch."""
    begins = torch.zeros(int(sizes.sum()), dtype=torch.int64)
    begins[sizes[:-1].cumsum(0)] = 1
    return begins.cumsum_(0)


def _batches(sizes: Sequence[int]) -> Iterator[list[int]]:
    chosen: list[int] = []
    batch_size = 0
    for index, size in enumerate(sizes):
        if chosen and batch_size + size > _PASS_SIZE:
            yield chosen
            chosen, batch_size = [], 0
        chosen.append(index)
        batch_size += size
    if chosen:
        yield chosen
