"""Computes checksums of the bits of tensors, one number per tensor, and hashes of names."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from tbx_callbacks._stats.flat import flat, moved
from tbx_callbacks._stats.threads import Pieces, on_threads

_SMALL, _SMALL_CPU = 1 << 12, 1 << 9  # words; many small tensors take few calls together
_CHUNK = 1 << 17  # words, which stay in a core's cache
_ROW, _ROW_CPU = 1 << 10, 1 << 6  # words
_MASK = (1 << 64) - 1
_FACTOR = 0x9E3779B97F4A7C15


def checksums(tensors: Sequence[Tensor]) -> Tensor:
    """Returns a checksum of the bits of each tensor, `[len(tensors)]` int64, on the device of the first tensor.

    It depends on the bits alone, also for NaN and -0.0, and is 0 if all bits are. It is a sum of the tensor's 64-bit
    words, each times an odd factor of its position, modulo 2**64. So one changed word always changes it. On CPU the 64
    words of a row of a large tensor share a factor: changes that cancel each other in each row go unnoticed. Devices
    of different types compute different checksums. One pass on CPU, two elsewhere, where nothing waits for the device.
    """
    if not tensors:
        return torch.zeros(0, dtype=torch.int64)
    target_device = tensors[0].device
    result = torch.zeros(len(tensors), dtype=torch.int64, device=target_device)
    words = [_words(tensor) for tensor in tensors]
    kinds: dict[tuple[torch.device, bool], list[int]] = {}
    for index, each in enumerate(words):
        small = each.numel() <= (_SMALL_CPU if each.device.type == "cpu" else _SMALL)
        kinds.setdefault((each.device, small), []).append(index)
    for (device, small), indices in kinds.items():
        chosen = [words[index] for index in indices]
        if small:
            numbers = _small(chosen)
        elif device.type == "cpu":
            numbers = _large_cpu(chosen)
        else:
            numbers = torch.stack([_large(each) for each in chosen])
        if len(indices) == len(tensors):
            return numbers
        result.index_copy_(0, moved(torch.tensor(indices), target_device), moved(numbers, target_device))
    return result


def hash_of(names: Sequence[str]) -> float:
    """Returns a hash of the names that is the same in every process; a float64 holds it exactly."""
    return float(int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:6], "big"))


def mix(numbers: Tensor) -> Tensor:
    """Returns other int64 numbers, different ones for different numbers; each depends on all bits of its number."""
    for _ in range(2):
        numbers = (numbers ^ _shifted(numbers, 29)) * _signed(_FACTOR)
    return numbers ^ _shifted(numbers, 32)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Shifts zeros in: torch repeats the sign, so that a number and its complement would be mixed alike."""
    return (numbers >> bits) & ((1 << 64 - bits) - 1)


def _words(tensor: Tensor) -> Tensor:
    """Returns the bits as 64-bit words, `[words]`; the last word is filled up with zeros. A view if possible."""
    plain = flat(tensor).contiguous()
    number = 8 // plain.element_size()
    if plain.numel() % number == 0 and plain.storage_offset() % number == 0:
        return plain.view(torch.int64)
    padded = torch.zeros(-(-plain.numel() // number) * 8, dtype=torch.uint8, device=plain.device)
    padded[: plain.numel() * plain.element_size()] = plain.view(torch.uint8)
    return padded.view(torch.int64)


def _small(words: Sequence[Tensor]) -> Tensor:
    """Sums all words of all tensors in one pass; the sum of a tensor is a difference of two partial sums."""
    device, sizes = words[0].device, tuple([each.numel() for each in words])
    factors = _factors(device, _SMALL)
    products = torch.cat(list(words)) * torch.cat([factors[:size] for size in sizes])
    partial_sums = torch.cat([products.new_zeros(1), products.cumsum(0)])
    ends = partial_sums[moved(torch.tensor([0, *itertools.accumulate(sizes)]), device)]
    return ends[1:] - ends[:-1]


def _large(words: Tensor) -> Tensor:
    """Sums the rows and the columns of a matrix of the words: neither needs memory for products."""
    rows = words.numel() // _ROW
    body, rest = words[: rows * _ROW].view(rows, _ROW), words[rows * _ROW :]
    factors = _factors(words.device, 2 * _SMALL)
    by_row, columns = body.sum(1), (body.sum(0) * factors[_SMALL : _SMALL + _ROW]).sum()
    in_rows = _large(by_row) if rows > _SMALL else (by_row * factors[:rows]).sum()
    return in_rows + columns + (rest * factors[-_ROW : -_ROW + len(rest)] if len(rest) else rest).sum()


def _large_cpu(words: Sequence[Tensor]) -> Tensor:
    """Sums short rows of each chunk, then the rows times their factors."""
    result = [0] * len(words)
    for index, number, checksum in itertools.chain.from_iterable(
        on_threads(_chunk_checksums, Pieces([[each] for each in words], size=_CHUNK))
    ):
        result[index] += checksum * _odd(number)
    return torch.tensor([_signed(total) for total in result], dtype=torch.int64)


def _chunk_checksums(pieces: Pieces) -> list[tuple[int, int, int]]:
    factors = _factors(torch.device("cpu"), _CHUNK // _ROW_CPU + _ROW_CPU).numpy()
    checksums = []
    for index, number, chunk in pieces:
        words = chunk.numpy()  # whose sums take one thread, and wrap around
        rows = len(words) // _ROW_CPU
        sums, rest = words[: rows * _ROW_CPU].reshape(rows, _ROW_CPU).sum(axis=1), words[rows * _ROW_CPU :]
        checksum = int((sums * factors[:rows]).sum()) + int((rest * factors[rows : rows + len(rest)]).sum())
        checksums.append((index, number, checksum))
    return checksums


@functools.cache
def _factors(device: torch.device, number: int) -> Tensor:
    """Odd factors of positions, `[number]` int64; the same in every process."""
    factors = mix(torch.arange(1, number + 1) * _signed(_FACTOR)) | 1
    return moved(factors, device)


def _odd(number: int) -> int:
    return (number * _FACTOR << 1 | 1) & _MASK


def _signed(number: int) -> int:
    """Returns the int64 that equals a number modulo 2**64."""
    return (number + (1 << 63) & _MASK) - (1 << 63)
