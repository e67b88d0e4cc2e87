"""Triton kernels that measure many tensors in one launch each. Imported only where a CUDA device and Triton are.

A launch works on a table of chunks, pieces of flat tensors: their address, their number of elements and the row (tensor
or group) they belong to. `order` names the chunks that a launch takes: those of one type and alignment.
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
def _nothing(KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Bounds, sum and sum of squares of no element, in every lane."""
    low = tl.full([BLOCK], _INF, KIND)
    return low, -low, tl.zeros([BLOCK], KIND), tl.zeros([BLOCK], KIND)


@triton.jit
def _seen(x, inside, low, high, total, square, bad):
    finite = inside & (tl.abs(x) < _INF)  # false for NaN
    clean = tl.where(finite, x, 0.0)
    low = tl.minimum(low, tl.where(finite, x, _INF))
    high = tl.maximum(high, tl.where(finite, x, -_INF))
    return low, high, total + clean, square + clean * clean, bad + (inside & (finite == 0)).to(tl.int32)


@triton.jit(do_not_specialize=["table", "order", "found", "chunks"])
def moments(table, order, found, chunks, DTYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """Of each chunk, `found[5, chunks]`: low, high, sum and sum of squares of what is finite, number of what is not."""
    chunk, pointer, length, _ = _start(table, order, chunks, DTYPE, ALIGNED)
    lane = tl.arange(0, BLOCK)
    low, high, total, square = _nothing(tl.float32, BLOCK)
    bad = tl.zeros([BLOCK], tl.int32)
    whole = length // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):  # without a mask, which would make each thread read one element at a time
        x = tl.load(pointer + start + lane).to(tl.float32)
        low, high, total, square, bad = _seen(x, lane >= 0, low, high, total, square, bad)
    inside = whole + lane < length
    x = tl.load(pointer + whole + lane, mask=inside, other=0.0).to(tl.float32)
    low, high, total, square, bad = _seen(x, inside, low, high, total, square, bad)
    tl.store(found + chunk, tl.min(low, 0).to(tl.float64))
    tl.store(found + chunks + chunk, tl.max(high, 0).to(tl.float64))
    tl.store(found + 2 * chunks + chunk, tl.sum(total, 0).to(tl.float64))
    tl.store(found + 3 * chunks + chunk, tl.sum(square, 0).to(tl.float64))
    tl.store(found + 4 * chunks + chunk, tl.sum(bad, 0).to(tl.float64))


@triton.jit(do_not_specialize=["found", "first", "out", "chunks"])
def merge_moments(found, first, out, chunks, BLOCK: tl.constexpr):
    """Of each row, `out[rows, 5]`: its chunks' moments, always added up in the same order."""
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    low, high, total, square = _nothing(tl.float64, BLOCK)
    bad = tl.zeros([BLOCK], tl.float64)
    end = tl.load(first + row + 1)
    for start in range(tl.load(first + row), end, BLOCK):
        chunk = start + lane
        inside = chunk < end
        low = tl.minimum(low, tl.load(found + chunk, mask=inside, other=_INF))
        high = tl.maximum(high, tl.load(found + chunks + chunk, mask=inside, other=-_INF))
        total += tl.load(found + 2 * chunks + chunk, mask=inside, other=0.0)
        square += tl.load(found + 3 * chunks + chunk, mask=inside, other=0.0)
        bad += tl.load(found + 4 * chunks + chunk, mask=inside, other=0.0)
    tl.store(out + 5 * row, tl.min(low, 0))
    tl.store(out + 5 * row + 1, tl.max(high, 0))
    tl.store(out + 5 * row + 2, tl.sum(total, 0))
    tl.store(out + 5 * row + 3, tl.sum(square, 0))
    tl.store(out + 5 * row + 4, tl.sum(bad, 0))


@triton.jit
def _counted(x, left, scale, last, wide, shrink, seen, total, square, out, BINS: tl.constexpr):
    """Adds elements to counts, to sums and to the number of those left out, which bin 0 has counted too."""
    finite = tl.abs(x) < _INF
    if wide:  # float32 cannot hold the scale, or a difference
        index = ((x.to(tl.float64) - left) * scale).to(tl.float32)
    else:
        index = (x - left.to(tl.float32)) * scale.to(tl.float32)
    index = tl.where(finite, index, 0.0).to(tl.int32)
    seen += tl.histogram(tl.minimum(tl.maximum(index, 0), last), BINS)
    clean = tl.where(finite, x, 0.0)
    small = clean * shrink
    return seen, total + clean, square + small * small, out + (finite == 0).to(tl.int32)


@triton.jit(do_not_specialize=["table", "order", "ranges", "bins", "counts", "found", "chunks"])
def count(
    table,
    order,
    ranges,
    bins,
    counts,
    found,
    chunks,
    DTYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    BINS: tl.constexpr,
):
    """Adds each chunk's counts over its row's range to `counts[rows, BINS]`.

    Of each chunk, `found[2, chunks]`: sum and sum of squares of what is finite.
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
    )  # float32 holds squares of x / unit
    shrink = (1.0 / unit).to(tl.float32)
    lane = tl.arange(0, BLOCK)
    seen = tl.zeros([BINS], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    square = tl.zeros([BLOCK], tl.float32)
    out = tl.zeros([BLOCK], tl.int32)
    whole = length // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        x = tl.load(pointer + start + lane).to(tl.float32)
        seen, total, square, out = _counted(x, left, scale, last, wide, shrink, seen, total, square, out, BINS)
    inside = whole + lane < length
    x = tl.load(pointer + whole + lane, mask=inside, other=_INF).to(tl.float32)
    seen, total, square, out = _counted(x, left, scale, last, wide, shrink, seen, total, square, out, BINS)
    bin_ = tl.arange(0, BINS)
    seen -= tl.where(bin_ == 0, tl.sum(out, 0), 0)  # what is left out, and what lies behind the end, went there
    tl.atomic_add(counts + row * BINS + bin_, seen.to(tl.int64))
    tl.store(found + chunk, tl.sum(total, 0).to(tl.float64))
    tl.store(found + chunks + chunk, tl.sum(square, 0).to(tl.float64) * unit * unit)


@triton.jit(do_not_specialize=["ranges", "counts", "found", "first", "out", "chunks"])
def merge_counts(ranges, counts, found, first, out, chunks, BLOCK: tl.constexpr, BINS: tl.constexpr):
    """Of each row, `out[rows, 4 + BINS]`: its range, sum, sum of squares and counts."""
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    square = tl.zeros([BLOCK], tl.float64)
    end = tl.load(first + row + 1)
    for start in range(tl.load(first + row), end, BLOCK):
        chunk = start + lane
        total += tl.load(found + chunk, mask=chunk < end, other=0.0)
        square += tl.load(found + chunks + chunk, mask=chunk < end, other=0.0)
    to = out + row * (4 + BINS)
    tl.store(to, tl.load(ranges + 2 * row))
    tl.store(to + 1, tl.load(ranges + 2 * row + 1))
    tl.store(to + 2, tl.sum(total, 0))
    tl.store(to + 3, tl.sum(square, 0))
    bin_ = tl.arange(0, BINS)
    tl.store(to + 4 + bin_, tl.load(counts + row * BINS + bin_).to(tl.float64))
