"""Identifies the rows of a micro-batch: by a column of ids, or else by a fingerprint of their inputs."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tbx_callbacks._model.outputs import named_parts

ID_COLUMNS = ("idx", "id", "example_id", "row_id", "guid", "uid")
"""Columns of a batch that identify its rows, the first one that it has."""
_IDS, _MASK = "input_ids", "attention_mask"
_LARGEST = 2.0**53  # larger floats may be rounded numbers
_LONGEST_KEY = 100
_MAX_ELEMENTS = 4096  # of a row's tensor without a mask; of a larger one, so many that are evenly spaced
# Odd constants of SplitMix64 and of xxHash, as signed numbers.
_A, _B, _C = -7046029254386353131, -4417276706812531889, 1609587929392839161
_MIX = ((30, -4658895280553007687), (27, -7723592293110705685))


@dataclass(frozen=True)
class Rows:
    """The rows of one micro-batch. Tensors are on their device."""

    keys: Tensor | tuple[str, ...]
    """Ids or fingerprints, int64 `[rows]`; or ids that are texts."""
    are_ids: bool
    """Whether the keys are ids."""
    groups: Tensor | tuple[str, ...] | None = None
    """The column by which losses are grouped: whole numbers `[rows]`, or texts."""
    token_ids: Tensor | None = None
    """`[rows, length]`; None unless texts are kept."""
    mask: Tensor | None = None
    """Of the tokens that are no padding, `[rows, length]`."""

    def __len__(self) -> int:
        return len(self.keys)


def rows_in(
    batch: Any, labels: Any, size: int | None, *, group_by: str | None = None, with_tokens: bool = False
) -> Rows | None:
    """The rows of a batch; None if they cannot be told apart. No host sync.

    Args:
        batch: a mapping, an object or a sequence of tensors.
        labels: the batch's labels, which are no input.
        size: the number of rows.
        group_by: the name of the column of groups.
        with_tokens: whether to keep copies of the token ids.
    """
    if size is None:
        return None
    columns = named_parts(batch)
    ids = (_column(columns.get(name), size) for name in ID_COLUMNS)
    keys = next((found for found in ids if found is not None), None)
    groups = None if group_by is None else _column(columns.get(group_by), size)
    are_ids = keys is not None
    if keys is None:
        keys = fingerprints(batch, labels, size)
    if keys is None:
        return None
    token_ids, mask = (_dense(columns.get(name)) for name in (_IDS, _MASK)) if with_tokens else (None, None)
    if token_ids is None or token_ids.ndim != 2 or token_ids.shape[0] != size:
        return Rows(keys, are_ids, groups)
    mask = None if mask is None or mask.shape != token_ids.shape else mask.clone()
    return Rows(keys, are_ids, groups, token_ids.clone(), mask)


@dataclass(eq=False)
class UnreadRows:
    """The rows of a batch that are read only if someone asks for them. Keeps the batch's tensors."""

    batch: Any
    labels: Any
    size: int | None
    shares_memory: bool = False
    """Whether a later batch has its memory."""

    def __post_init__(self) -> None:
        self._versions = self._find_versions()

    @property
    def is_overwritten(self) -> bool:
        """Whether the tensors no longer hold this batch."""
        return self.shares_memory or self._find_versions() != self._versions

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(part.element_size() * part.numel() for _, part in _parts(self.batch))

    @property
    def addresses(self) -> frozenset[int]:
        """Where the elements of the tensors are."""
        parts = (part for _, part in _parts(self.batch) if part.numel() and is_plain(part))
        return frozenset(part.data_ptr() for part in parts)

    def read(self, *, with_tokens: bool = False) -> Rows | None:
        """The rows, see `rows_in`; None if they have been overwritten."""
        if self.is_overwritten:
            return None
        return rows_in(self.batch, self.labels, self.size, with_tokens=with_tokens)

    def _find_versions(self) -> list[int]:
        """How often each tensor has been written to."""
        return [part._version for _, part in _parts(self.batch) if not part.is_inference()]


def unread_rows(batch: Any, labels: Any, size: int | None) -> UnreadRows:
    """Returns the rows of a batch, unread; what the training adds to the batch or removes from it changes nothing."""
    if isinstance(batch, Mapping):
        return UnreadRows(dict(batch), labels, size)
    return UnreadRows(list(batch) if isinstance(batch, (list, tuple)) else batch, labels, size)


class LateRows:
    """Keeps rows to be read later, and reads them at once where a data loader fills the same memory again.

    That is noticed at the first batch in memory that an earlier one, whose rows are still wanted, has too. The rows of
    earlier batches in that memory are lost.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[int, UnreadRows] = weakref.WeakValueDictionary()
        self._is_reused = False

    def take(
        self, batch: Any, labels: Any, size: int | None, *, with_tokens: bool, now: Rows | UnreadRows | None = None
    ) -> Rows | UnreadRows | None:
        """The rows of a micro-batch, see `rows_in`; `now` are those that are already known of the same micro-batch."""
        unread = unread_rows(batch, labels, size)
        for address in unread.addresses:
            earlier = self._known.get(address)
            if earlier is not None and earlier is not now:
                earlier.shares_memory = self._is_reused = True
            if not self._is_reused:
                self._known[address] = unread
        return unread.read(with_tokens=with_tokens) if self._is_reused else unread


def key_columns(rows: Rows) -> list[Tensor]:
    """The upper and the lower 32 bits of each key: copies to the host are exact for numbers below 2**53."""
    return [rows.keys >> 32, rows.keys & 0xFFFFFFFF] if isinstance(rows.keys, Tensor) else []


def _id(key: str) -> str:
    """The id; a long one ends with a digest, so that ids with the same beginning stay apart."""
    if len(key) > _LONGEST_KEY:
        key = f"{key[:_LONGEST_KEY]}~{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:16]}"
    return f"id {key}" if key.startswith("#") else key  # fingerprints begin with #


def keys_of(rows: Rows, columns: Iterator[Sequence[float]]) -> list[str]:
    """The rows' keys as texts: ids as they are, fingerprints as `#` and hexadecimal digits.

    Args:
        rows: the rows.
        columns: the numbers of `key_columns(rows)` come next.
    """
    if not isinstance(rows.keys, Tensor):
        return [_id(key) for key in rows.keys]
    high, low = next(columns), next(columns)
    numbers = [(int(upper) << 32) + int(lower) for upper, lower in zip(high, low, strict=True)]
    return [str(n) if rows.are_ids else f"#{n & (1 << 64) - 1:016x}" for n in numbers]


def is_fingerprint(key: str) -> bool:
    """Whether a key that `keys_of` made is a fingerprint, and not an id."""
    return key.startswith("#")


def unread_ids(batch: Any, size: int) -> str | None:
    """The name of the first column of ids, if its ids cannot be read."""
    columns = named_parts(batch)
    name = next((name for name in ID_COLUMNS if columns.get(name) is not None), None)
    return name if name is not None and _column(columns[name], size) is None else None


def _column(values: Any, size: int) -> Tensor | tuple[str, ...] | None:
    """A column of a batch: whole numbers as a copied tensor, `[size]`, or texts; None for anything else.

    Floats that are whole numbers count as such on the host, where that can be seen without waiting.
    """
    if isinstance(values, np.ndarray):
        values = values.tolist() if values.ndim == 1 else None
    if isinstance(values, Tensor):
        fits = is_plain(values) and values.numel() == size and values.shape[:1] == (size,)
        if not fits or values.dtype == torch.bool or values.is_complex() or not _is_whole(values.detach()):
            return None
        return values.detach().reshape(size).to(torch.int64, copy=True)
    if not isinstance(values, (list, tuple)) or len(values) != size:
        return None
    texts = tuple(map(_text, values))
    return None if None in texts else texts  # type: ignore[return-value]


def _is_whole(values: Tensor) -> bool:
    if not values.is_floating_point():
        return True
    return values.device.type == "cpu" and bool(((values == values.round()) & (values.abs() < _LARGEST)).all())


def _text(value: Any) -> str | None:
    """A text, or a whole number as one."""
    if isinstance(value, (float, np.floating)):
        number = float(value)
        value = int(number) if number.is_integer() and abs(number) < _LARGEST else None
    is_id = isinstance(value, (str, int, np.integer)) and not isinstance(value, bool)
    return str(value) if is_id else None


def fingerprints(batch: Any, labels: Any, size: int) -> Tensor | None:
    """Returns one number for each row of a batch's inputs, int64 `[size]`; None if the rows are not known.

    Rows with the same inputs have the same number on every device, whatever their padding, as far as `attention_mask`
    marks it. Rows with other inputs have other numbers, except by a chance of 2**-64. Labels and columns of ids are no
    inputs.

    Args:
        batch: a mapping, an object, a sequence of tensors, or a tensor.
        labels: the batch's labels.
        size: the number of rows.
    """
    skipped = {_MASK, *ID_COLUMNS}
    inputs = [part for name, part in _parts(batch) if part is not labels and name not in skipped]
    known = [part.detach() for part in inputs if part.ndim and part.shape[0] == size and part.numel()]
    if not known or not all(map(is_plain, inputs)):
        return None
    mask = _dense(named_parts(batch).get(_MASK))
    kept: Tensor | None = mask.ne(0) if mask is not None and mask.ndim == 2 else None
    device = known[0].device
    total = torch.zeros(size, dtype=torch.int64, device=device)
    for number, part in enumerate(known):
        own = kept.to(part.device) if kept is not None and part.shape[:2] == kept.shape else None
        total = total + _mixed(_hashes(part, own).to(device) + number * _C)
    return _mixed(total)


def _parts(batch: Any) -> Iterator[tuple[Any, Tensor]]:
    """The tensors of a batch, with their names."""
    parts = named_parts(batch)
    if not parts:
        values = batch if isinstance(batch, (list, tuple)) else [batch]
        parts = dict(enumerate(values))
    for name, part in parts.items():
        if isinstance(part, Tensor) and part.element_size() > 0:
            yield name, part


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a dense array of numbers: not sparse, nested or quantised."""
    return tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized


def _dense(value: Any) -> Tensor | None:
    """The value, detached, if it is a dense tensor."""
    return value.detach() if isinstance(value, Tensor) and is_plain(value) else None


def _hashes(part: Tensor, kept: Tensor | None) -> Tensor:
    """Returns one number for each row of a tensor, from the bits and the position of each element."""
    rows = part.shape[0]
    bits = _bits(part)
    if kept is None:
        bits = bits.reshape(rows, -1)
        if bits.shape[1] > _MAX_ELEMENTS:
            every = torch.linspace(0, bits.shape[1] - 1, _MAX_ELEMENTS, dtype=torch.float64, device=part.device)
            bits = bits[:, every.long()]
        return _mixed(bits * _A + torch.arange(1, bits.shape[1] + 1, device=part.device) * _B).sum(1)
    bits = bits.reshape(rows, kept.shape[1], -1)
    positions = kept.cumsum(1)[..., None] * bits.shape[2] + torch.arange(bits.shape[2], device=part.device)
    return (_mixed(bits * _A + positions * _B) * kept[..., None]).sum((1, 2))


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor: Tensor) -> Tensor:
    """The bits of each element, as int64."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.is_floating_point():
        tensor = tensor.contiguous().view(_INTEGERS[tensor.element_size()])
    return tensor.to(torch.int64)


def _mixed(numbers: Tensor) -> Tensor:
    """Spreads each bit of each number over all bits, as SplitMix64 does. Products wrap around."""
    for shift, factor in _MIX:
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, by: int) -> Tensor:
    """An unsigned shift to the right; that of torch is signed."""
    return (numbers >> by) & ((1 << (64 - by)) - 1)
