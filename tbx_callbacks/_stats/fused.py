"""Statistics of many tensors on CUDA in a few launches, each tensor read once a pass (see kernels.py)."""

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
_CHUNK, _BLOCK, _WARPS = 1 << 15, 1 << 10, 4  # 32 Ki elements a program, 8 at a time in each thread
_FEWEST_BINS = 32  # one a thread of a warp


class Moments(NamedTuple):
    """One number a row, float64: of finite elements their bounds, sum and squares; the number of the others."""

    lows: Tensor
    highs: Tensor
    totals: Tensor
    squares: Tensor
    nonfinite: Tensor

    def square_norms(self) -> Tensor:
        """As `norms.square_norms`: infinite where an element is not finite."""
        return torch.where(self.nonfinite > 0, torch.inf, self.squares)

    def bounds(self, groups: Sequence[Sequence[int]]) -> list[Tensor]:
        """Smallest and largest finite element of groups of rows, `[2]` each."""
        most = max(map(len, groups), default=0)
        padded = [[*rows, *[rows[0]] * (most - len(rows))] for rows in groups]
        indices = moved(torch.tensor(padded), self.lows.device)
        return list(torch.stack([self.lows[indices].amin(1), self.highs[indices].amax(1)], 1).unbind())


def takes(tensors: Sequence[Tensor]) -> bool:
    """Whether flat tensors, all of one device, can be measured here."""
    kinds = {tensor.dtype for tensor in tensors}
    return bool(kinds) and kinds <= _TYPES.keys() and all(_trusted(tensors[0].device, kind) for kind in kinds)


def moments(rows: Sequence[Sequence[Tensor]]) -> Moments:
    """Of the flat tensors of each row together; all on one device, of a type that `takes` accepts. One pass."""
    kernels, work = _kernels(), _Work(rows)
    with _on(work.device):
        found = torch.empty(5, work.chunks, dtype=torch.float64, device=work.device)
        out = torch.empty(len(rows), 5, dtype=torch.float64, device=work.device)
        for grid, order, options in work.launches(kernels):
            kernels.moments[grid](work.table, order, found, work.chunks, **options)
        kernels.merge_moments[(len(rows),)](found, work.first, out, work.chunks, BLOCK=256)
    return Moments(*out.unbind(1))


def of_each(tensors: Sequence[Tensor]) -> Moments | None:
    """Of each tensor by itself; None where that is not for the kernels: on CPUs, or tensors of several devices."""
    if len({tensor.device for tensor in tensors}) != 1 or tensors[0].device.type != "cuda":
        return None
    flats = [flat(tensor) for tensor in tensors]
    return moments([[tensor] for tensor in flats]) if takes(flats) else None


def bounds(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """As `histogram.value_ranges`. One pass."""
    found = moments(rows)
    return list(torch.stack([found.lows, found.highs], 1).unbind())


def count(rows: Sequence[Sequence[Tensor]], ranges: Sequence[Tensor], bins: Sequence[int]) -> list[Tensor]:
    """As `histogram.count`. One pass."""
    kernels, work = _kernels(), _Work(rows, bins)
    indices = 1 << max(max(bins) - 1, _FEWEST_BINS - 1).bit_length()
    with _on(work.device):
        edges = torch.stack([moved(each, work.device).double() for each in ranges])
        counts = torch.zeros(len(rows), indices, dtype=torch.int64, device=work.device)
        found = torch.empty(2, work.chunks, dtype=torch.float64, device=work.device)
        out = torch.empty(len(rows), 4 + indices, dtype=torch.float64, device=work.device)
        for grid, order, options in work.launches(kernels):
            kernels.count[grid](
                work.table, order, edges, work.extra, counts, found, work.chunks, BINS=indices, **options
            )
        kernels.merge_counts[(len(rows),)](edges, counts, found, work.first, out, work.chunks, BLOCK=256, BINS=indices)
    return [row[: 4 + number] for row, number in zip(out.unbind(), bins, strict=True)]


class _Work:
    """The table of chunks on the device, in one copy from pinned memory."""

    def __init__(self, rows: Sequence[Sequence[Tensor]], extra: Sequence[int] = ()) -> None:
        tensors = [(row, tensor) for row, tensors in enumerate(rows) for tensor in tensors if tensor.numel()]
        self.device = rows[0][0].device
        self._tensors = tensors  # a flat copy must live until the kernels that read it are in the queue
        lengths = torch.tensor([tensor.numel() for _, tensor in tensors], dtype=torch.int64)
        pieces = (lengths + _CHUNK - 1) // _CHUNK
        self.chunks = int(pieces.sum())
        owner = torch.repeat_interleave(pieces)
        offset = (torch.arange(self.chunks) - (pieces.cumsum(0) - pieces)[owner]) * _CHUNK
        sizes = torch.tensor([tensor.element_size() for _, tensor in tensors], dtype=torch.int64)
        starts = torch.tensor([tensor.data_ptr() for _, tensor in tensors], dtype=torch.int64)
        row = torch.tensor([row for row, _ in tensors], dtype=torch.int64)[owner]
        first = torch.searchsorted(row, torch.arange(len(rows) + 1))
        self._kinds: list[tuple[torch.dtype, bool]] = []
        kind = torch.tensor([self._kind(tensor) for _, tensor in tensors], dtype=torch.int64)[owner]
        order = kind.argsort(stable=True)
        self._of_kind = torch.bincount(kind, minlength=len(self._kinds)).tolist()
        table = (starts[owner] + offset * sizes[owner], (lengths[owner] - offset).clamp_max(_CHUNK), row)
        packed = torch.cat([*table, order, first, torch.tensor(list(extra), dtype=torch.int64)])
        if self.device.type == "cuda":
            packed = packed.pin_memory()
        parts = (3 * self.chunks, self.chunks, len(first), len(extra))
        self.table, self._order, self.first, self.extra = moved(packed, self.device).split(parts)

    def launches(self, kernels: ModuleType) -> Iterator[tuple[tuple[int], Tensor, dict[str, object]]]:
        """Grid, chunks and constants of the launch for each type and alignment."""
        orders = self._order.split(self._of_kind)
        for (dtype, aligned), order in zip(self._kinds, orders, strict=True):
            kind = getattr(kernels.tl, _TYPES[dtype])
            options = {"DTYPE": kind, "ALIGNED": aligned, "BLOCK": _BLOCK, "num_warps": _WARPS}
            yield (order.numel(),), order, options

    def _kind(self, tensor: Tensor) -> int:
        kind = (tensor.dtype, tensor.data_ptr() % 16 == 0)
        if kind not in self._kinds:
            self._kinds.append(kind)
        return self._kinds.index(kind)


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _kernels() -> ModuleType:
    return importlib.import_module("tbx_callbacks._stats.triton_kernels")


@functools.cache
def _trusted(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on a device and count a type right there: tried when it is first met.

    They are compiled then, which takes a second or two, once on a machine: Triton keeps what it compiled on disk.
    """
    if device.type != "cuda":
        return False
    known = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(0)  # this once the device is waited for
    try:
        right = _right(device, dtype)
    except Exception as error:  # no Triton, no compiler, a device it does not know
        logger.info("torch's own operators measure on %s, since Triton's kernels do not run there: %r", device, error)
        return False
    finally:
        torch.cuda.set_sync_debug_mode(known)
    if not right:
        logger.warning(
            "Triton's kernels count %s wrong on %s, so torch's own operators measure there; please report this",
            dtype,
            device,
        )
    return right


def _right(device: torch.device, dtype: torch.dtype) -> bool:
    """Compares the kernels with torch on some blocks and a bit, with elements that are not finite."""
    numbers = torch.linspace(-1, 1, 5 * _BLOCK + 3) ** 3  # bins hold different numbers of them
    numbers[7], numbers[11], numbers[-1] = float("nan"), float("inf"), float("-inf")
    tensor = numbers.to(device, dtype)
    row = [tensor[:-_BLOCK], tensor[-_BLOCK:]]
    found = moments([row])
    low, high, total, square, *counts = count([row], bounds([row]), [64])[0].tolist()
    here = tensor.double().cpu()
    here = here[torch.isfinite(here)]
    moved = (torch.tensor(counts) - torch.histc(here, 64, low, high)).abs().sum().item() / 2
    sums = torch.tensor([total, square, found.totals.item(), found.squares.item()], dtype=torch.float64)
    expected = torch.stack([here.sum(), here.square().sum()]).repeat(2)
    return (
        (low, high) == (here.min(), here.max())
        and sum(counts) == len(here)
        and moved <= 64  # elements of a type with few values lie on edges
        and found.nonfinite.item() == len(tensor) - len(here)
        and bool(torch.allclose(sums, expected, rtol=1e-4, atol=1e-2))
    )
