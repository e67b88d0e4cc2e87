"""Computes statistics of many tensors on CUDA in a few launches, reading each tensor once (see triton_kernels.py)."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from tbx_callbacks._stats.flat import flat, moved

logger = logging.getLogger(__name__)
_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_CHUNK, _BLOCK, _WARPS = 1 << 15, 1 << 10, 4  # 32 Ki elements per program, 8 at a time per thread
_FEWEST_BINS = 32  # one per thread of a warp


class Moments(NamedTuple):
    """Per row, float64: bounds, sum and sum of squares of the finite elements, and number of the other elements."""

    lows: Tensor
    highs: Tensor
    totals: Tensor
    squares: Tensor
    nonfinite: Tensor

    def square_norms(self) -> Tensor:
        """Returns the same as `norms.square_norms`: infinite for rows with a non-finite element."""
        return torch.where(self.nonfinite > 0, torch.inf, self.squares)

    def bounds(self, groups: Sequence[Sequence[int]]) -> list[Tensor]:
        """Returns the smallest and largest finite element of each group of rows, `[2]`."""
        longest = max(map(len, groups), default=0)
        padded = [[*rows, *[rows[0]] * (longest - len(rows))] for rows in groups]
        indices = moved(torch.tensor(padded), self.lows.device)
        return list(torch.stack([self.lows[indices].amin(1), self.highs[indices].amax(1)], 1).unbind())


def supports(tensors: Sequence[Tensor]) -> bool:
    """Whether the kernels support these flat tensors, which must be on one device."""
    kinds = {tensor.dtype for tensor in tensors}
    return bool(kinds) and kinds <= _TYPES.keys() and all(_is_reliable(tensors[0].device, kind) for kind in kinds)


def moments(rows: Sequence[Sequence[Tensor]]) -> Moments:
    """Returns the moments of each row of flat tensors, which `supports` must accept. One pass."""
    kernels, work = _kernels(), _Work(rows)
    with _current_device(work.device):
        chunk_moments = torch.empty(5, work.chunks, dtype=torch.float64, device=work.device)
        out = torch.empty(len(rows), 5, dtype=torch.float64, device=work.device)
        for grid, order, options in work.launches(kernels):
            kernels.moments[grid](work.table, order, chunk_moments, work.chunks, **options)
        kernels.merge_moments[(len(rows),)](chunk_moments, work.first, out, work.chunks, BLOCK=256)
    return Moments(*out.unbind(1))


def tensor_moments(tensors: Sequence[Tensor]) -> Moments | None:
    """Returns the moments of each tensor; None on CPUs, for several devices, or for unsupported tensors."""
    if len({tensor.device for tensor in tensors}) != 1 or tensors[0].device.type != "cuda":
        return None
    flats = [flat(tensor) for tensor in tensors]
    return moments([[tensor] for tensor in flats]) if supports(flats) else None


def bounds(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Returns the same as `histogram.value_ranges`. One pass."""
    row_moments = moments(rows)
    return list(torch.stack([row_moments.lows, row_moments.highs], 1).unbind())


def count(rows: Sequence[Sequence[Tensor]], ranges: Sequence[Tensor], bins: Sequence[int]) -> list[Tensor]:
    """Returns the same as `histogram.count`. One pass."""
    kernels, work = _kernels(), _Work(rows, bins)
    table_bins = 1 << max(max(bins) - 1, _FEWEST_BINS - 1).bit_length()
    with _current_device(work.device):
        edges = torch.stack([moved(row_range, work.device).double() for row_range in ranges])
        counts = torch.zeros(len(rows), table_bins, dtype=torch.int64, device=work.device)
        chunk_sums = torch.empty(2, work.chunks, dtype=torch.float64, device=work.device)
        out = torch.empty(len(rows), 4 + table_bins, dtype=torch.float64, device=work.device)
        for grid, order, options in work.launches(kernels):
            kernels.count[grid](
                work.table, order, edges, work.extra, counts, chunk_sums, work.chunks, BINS=table_bins, **options
            )
        kernels.merge_counts[(len(rows),)](
            edges, counts, chunk_sums, work.first, out, work.chunks, BLOCK=256, BINS=table_bins
        )
    return [row[: 4 + number] for row, number in zip(out.unbind(), bins, strict=True)]


class _Work:
    """The table of chunks, brought to the device by one copy from pinned memory."""

    def __init__(self, rows: Sequence[Sequence[Tensor]], extra: Sequence[int] = ()) -> None:
        tensors = [(row, tensor) for row, tensors in enumerate(rows) for tensor in tensors if tensor.numel()]
        self.device = rows[0][0].device
        self._tensors = tensors  # a flat copy must live until the kernels that read it are queued
        lengths = torch.tensor([tensor.numel() for _, tensor in tensors], dtype=torch.int64)
        pieces = (lengths + _CHUNK - 1) // _CHUNK
        self.chunks = int(pieces.sum())
        tensor_index = torch.repeat_interleave(pieces)
        offset = (torch.arange(self.chunks) - (pieces.cumsum(0) - pieces)[tensor_index]) * _CHUNK
        sizes = torch.tensor([tensor.element_size() for _, tensor in tensors], dtype=torch.int64)
        starts = torch.tensor([tensor.data_ptr() for _, tensor in tensors], dtype=torch.int64)
        row = torch.tensor([row for row, _ in tensors], dtype=torch.int64)[tensor_index]
        first = torch.searchsorted(row, torch.arange(len(rows) + 1))
        self._kinds: list[tuple[torch.dtype, bool]] = []
        kind = torch.tensor([self._kind(tensor) for _, tensor in tensors], dtype=torch.int64)[tensor_index]
        order = kind.argsort(stable=True)
        self._chunks_per_kind = torch.bincount(kind, minlength=len(self._kinds)).tolist()
        table = (
            starts[tensor_index] + offset * sizes[tensor_index],
            (lengths[tensor_index] - offset).clamp_max(_CHUNK),
            row,
        )
        packed = torch.cat([*table, order, first, torch.tensor(list(extra), dtype=torch.int64)])
        if self.device.type == "cuda":
            packed = packed.pin_memory()
        parts = (3 * self.chunks, self.chunks, len(first), len(extra))
        self.table, self._order, self.first, self.extra = moved(packed, self.device).split(parts)

    def launches(self, kernels: ModuleType) -> Iterator[tuple[tuple[int], Tensor, dict[str, object]]]:
        """Yields grid, chunks and constants of the launch for each type and alignment."""
        orders = self._order.split(self._chunks_per_kind)
        for (dtype, aligned), order in zip(self._kinds, orders, strict=True):
            kind = getattr(kernels.tl, _TYPES[dtype])
            options = {"DTYPE": kind, "ALIGNED": aligned, "BLOCK": _BLOCK, "num_warps": _WARPS}
            yield (order.numel(),), order, options

    def _kind(self, tensor: Tensor) -> int:
        kind = (tensor.dtype, tensor.data_ptr() % 16 == 0)
        if kind not in self._kinds:
            self._kinds.append(kind)
        return self._kinds.index(kind)


def _current_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes the device current, because Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _kernels() -> ModuleType:
    return importlib.import_module("tbx_callbacks._stats.triton_kernels")


@functools.cache
def _is_reliable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on a device and give correct results for a type; tested on first use.

    The first use compiles the kernels, which takes a second or two per machine: Triton caches them on disk.
    """
    if device.type != "cuda":
        return False
    debug_mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(0)  # this test is the only host sync
    try:
        is_correct = _matches_torch(device, dtype)
    except Exception as error:  # no Triton, no compiler, an unknown device
        logger.info("Triton kernels disabled on %s, using torch operators: %r", device, error)
        return False
    finally:
        torch.cuda.set_sync_debug_mode(debug_mode)
    if not is_correct:
        logger.warning(
            "Triton kernels disabled: wrong counts for %s on %s; using torch operators. Please report this.",
            dtype,
            device,
        )
    return is_correct


def _matches_torch(device: torch.device, dtype: torch.dtype) -> bool:
    """Compares the kernels with torch on a few full blocks and a partial one, with non-finite elements."""
    numbers = torch.linspace(-1, 1, 5 * _BLOCK + 3) ** 3  # bins get different counts
    numbers[7], numbers[11], numbers[-1] = float("nan"), float("inf"), float("-inf")
    tensor = numbers.to(device, dtype)
    row = [tensor[:-_BLOCK], tensor[-_BLOCK:]]
    row_moments = moments([row])
    low, high, total, square, *counts = count([row], bounds([row]), [64])[0].tolist()
    elements = tensor.double().cpu()
    elements = elements[torch.isfinite(elements)]
    misplaced = (torch.tensor(counts) - torch.histc(elements, 64, low, high)).abs().sum().item() / 2
    sums = torch.tensor([total, square, row_moments.totals.item(), row_moments.squares.item()], dtype=torch.float64)
    expected = torch.stack([elements.sum(), elements.square().sum()]).repeat(2)
    return (
        (low, high) == (elements.min(), elements.max())
        and sum(counts) == len(elements)
        and misplaced <= 64  # with few distinct values, elements lie on bin edges
        and row_moments.nonfinite.item() == len(tensor) - len(elements)
        and bool(torch.allclose(sums, expected, rtol=1e-4, atol=1e-2))
    )
