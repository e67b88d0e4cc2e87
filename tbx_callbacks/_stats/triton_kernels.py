"""Defines Triton kernels, each of which processes many tensors in one launch. Needs Triton and a CUDA device.

A launch works on a table of chunks, which are pieces of flat tensors. The table has the address of each chunk, its
number of elements and its row (tensor or group). `order` lists the chunks of a launch, which share a type and an
alignment.
"""

import triton
import triton.language as tl

_INF = tl.constexpr(float("inf"))
_TINY = tl.constexpr(1e-30)
_HUGE = tl.constexpr(1e30)


@triton.jit
def _start(table, order, chunks, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    chunk = tl.load(order + tl.program_id(0))
    pointer = tl.load(table + chunk).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)  # so that each thread reads 16 bytes at a time
    return chunk, pointer, tl.load(table + chunks + chunk).to(tl.int32), tl.load(table + 2 * chunks + chunk)


@triton.jit
def _empty_moments(KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Returns bounds, sum and sum of squares of zero elements, in every lane."""
    low = tl.full([BLOCK], _INF, KIND)
    return low, -low, tl.zeros([BLOCK], KIND), tl.zeros([BLOCK], KIND)


@triton.jit
def _update_moments(x, inside, low, high, total, square, bad):
    finite = inside & (tl.abs(x) < _INF)  # false for NaN
    clean = tl.where(finite, x, 0.0)
    low = tl.minimum(low, tl.where(finite, x, _INF))
    high = tl.maximum(high, tl.where(finite, x, -_INF))
    return low, high, total + clean, square + clean * clean, bad + (inside & (finite == 0)).to(tl.int32)


@triton.jit(do_not_specialize=["table", "order", "stats", "chunks"])
def moments(table, order, stats, chunks, DTYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """Writes, per chunk, `stats[5, chunks]`: low, high, sum and sum of squares of finite elements, number of others."""
    chunk, pointer, length, _ = _start(table, order, chunks, DTYPE, ALIGNED)
    lane = tl.arange(0, BLOCK)
    low, high, total, square = _empty_moments(tl.float32, BLOCK)
    bad = tl.zeros([BLOCK], tl.int32)
    full_length = length // BLOCK * BLOCK
    for start in range(0, full_length, BLOCK):  # without a mask, because a masked thread reads one element at a time
        x = tl.load(pointer + start + lane).to(tl.float32)
        low, high, total, square, bad = _update_moments(x, lane >= 0, low, high, total, square, bad)
    inside = full_length + lane < length
    x = tl.load(pointer + full_length + lane, mask=inside, other=0.0).to(tl.float32)
    low, high, total, square, bad = _update_moments(x, inside, low, high, total, square, bad)
    tl.store(stats + chunk, tl.min(low, 0).to(tl.float64))
    tl.store(stats + chunks + chunk, tl.max(high, 0).to(tl.float64))
    tl.store(stats + 2 * chunks + chunk, tl.sum(total, 0).to(tl.float64))
    tl.store(stats + 3 * chunks + chunk, tl.sum(square, 0).to(tl.float64))
    tl.store(stats + 4 * chunks + chunk, tl.sum(bad, 0).to(tl.float64))


@triton.jit(do_not_specialize=["stats", "first", "out", "chunks"])
def merge_moments(stats, first, out, chunks, BLOCK: tl.constexpr):
    """Writes, per row, `out[rows, 5]`: the merged moments of its chunks, always added in the same order."""
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    low, high, total, square = _empty_moments(tl.float64, BLOCK)
    bad = tl.zeros([BLOCK], tl.float64)
    end = tl.load(first + row + 1)
    for start in range(tl.load(first + row), end, BLOCK):
        chunk = start + lane
        inside = chunk < end
        low = tl.minimum(low, tl.load(stats + chunk, mask=inside, other=_INF))
        high = tl.maximum(high, tl.load(stats + chunks + chunk, mask=inside, other=-_INF))
        total += tl.load(stats + 2 * chunks + chunk, mask=inside, other=0.0)
        square += tl.load(stats + 3 * chunks + chunk, mask=inside, other=0.0)
        bad += tl.load(stats + 4 * chunks + chunk, mask=inside, other=0.0)
    tl.store(out + 5 * row, tl.min(low, 0))
    tl.store(out + 5 * row + 1, tl.max(high, 0))
    tl.store(out + 5 * row + 2, tl.sum(total, 0))
    tl.store(out + 5 * row + 3, tl.sum(square, 0))
    tl.store(out + 5 * row + 4, tl.sum(bad, 0))


@triton.jit
def _update_counts(x, left, scale, last, wide, shrink, bin_counts, total, square, out, BINS: tl.constexpr):
    """Adds elements to counts, sums and the number of non-finite elements, which bin 0 counts too."""
    finite = tl.abs(x) < _INF
    if wide:  # float32 cannot represent the scale or a difference
        index = ((x.to(tl.float64) - left) * scale).to(tl.float32)
    else:
        index = (x - left.to(tl.float32)) * scale.to(tl.float32)
    index = tl.where(finite, index, 0.0).to(tl.int32)
    bin_counts += tl.histogram(tl.minimum(tl.maximum(index, 0), last), BINS)
    clean = tl.where(finite, x, 0.0)
    small = clean * shrink
    return bin_counts, total + clean, square + small * small, out + (finite == 0).to(tl.int32)


@triton.jit(do_not_specialize=["table", "order", "ranges", "bins", "counts", "stats", "chunks"])
def count(
    table,
    order,
    ranges,
    bins,
    counts,
    stats,
    chunks,
    DTYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    BINS: tl.constexpr,
):
    """Adds each chunk's counts over its row's range to `counts[rows, BINS]`.

    Writes, per chunk, `stats[2, chunks]`: sum and sum of squares of the finite elements.
    """
    chunk, pointer, length, row = _start(table, order, chunks, DTYPE, ALIGNED)
    low = tl.load(ranges + 2 * row)
    high = tl.load(ranges + 2 * row + 1)
    number = tl.load(bins + row)
    left = tl.where(high > low, low, low - 0.5)
    width = tl.where(high > low, high - low, 1.0)
    scale = number / width
    wide = (scale < _TINY) | (scale > _HUGE) | (width > _HUGE)
    last = (number - 1).to(tl.int32)
    unit = tl.minimum(
        tl.maximum(tl.maximum(tl.abs(low), tl.abs(high)), _TINY), _HUGE
    )  # float32 can represent squares of x / unit
    shrink = (1.0 / unit).to(tl.float32)
    lane = tl.arange(0, BLOCK)
    bin_counts = tl.zeros([BINS], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    square = tl.zeros([BLOCK], tl.float32)
    out = tl.zeros([BLOCK], tl.int32)
    full_length = length // BLOCK * BLOCK
    for start in range(0, full_length, BLOCK):
        x = tl.load(pointer + start + lane).to(tl.float32)
        bin_counts, total, square, out = _update_counts(
            x, left, scale, last, wide, shrink, bin_counts, total, square, out, BINS
        )
    inside = full_length + lane < length
    x = tl.load(pointer + full_length + lane, mask=inside, other=_INF).to(tl.float32)
    bin_counts, total, square, out = _update_counts(
        x, left, scale, last, wide, shrink, bin_counts, total, square, out, BINS
    )
    bin_ = tl.arange(0, BINS)
    bin_counts -= tl.where(
        bin_ == 0, tl.sum(out, 0), 0
    )  # bin 0 also counted non-finite elements and those past the end
    tl.atomic_add(counts + row * BINS + bin_, bin_counts.to(tl.int64))
    tl.store(stats + chunk, tl.sum(total, 0).to(tl.float64))
    tl.store(stats + chunks + chunk, tl.sum(square, 0).to(tl.float64) * unit * unit)


@triton.jit(do_not_specialize=["ranges", "counts", "stats", "first", "out", "chunks"])
def merge_counts(ranges, counts, stats, first, out, chunks, BLOCK: tl.constexpr, BINS: tl.constexpr):
    """Writes, per row, `out[rows, 4 + BINS]`: its range, sum, sum of squares and counts."""
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    square = tl.zeros([BLOCK], tl.float64)
    end = tl.load(first + row + 1)
    for start in range(tl.load(first + row), end, BLOCK):
        chunk = start + lane
        total += tl.load(stats + chunk, mask=chunk < end, other=0.0)
        square += tl.load(stats + chunks + chunk, mask=chunk < end, other=0.0)
    to = out + row * (4 + BINS)
    tl.store(to, tl.load(ranges + 2 * row))
    tl.store(to + 1, tl.load(ranges + 2 * row + 1))
    tl.store(to + 2, tl.sum(total, 0))
    tl.store(to + 3, tl.sum(square, 0))
    bin_ = tl.arange(0, BINS)
    tl.store(to + 4 + bin_, tl.load(counts + row * BINS + bin_).to(tl.float64))
