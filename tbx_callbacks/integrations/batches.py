"""Reads labels, sample and token counts, and losses from micro-batches and model outputs."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._config.validation import short
from tbx_callbacks._model.outputs import named_parts

_LABELS = ("labels", "label", "targets", "target", "y")
_IDS, _MASK, _POSITIONS, _SEQUENCE_INDEX = "input_ids", "attention_mask", "position_ids", "seq_idx"
_BOUNDARIES = frozenset({"cu_seq_lens_q", "cu_seq_lens", "cu_seqlens_q", "cu_seqlens"})
_MASKED = -9e3  # additive masks hold -10000 or less at masked positions; a bias for distances is smaller
_MAX_DEPTH, _MAX_INPUTS = 4, 3  # of nested structures; of tensors in a list that are the inputs of one batch


def labels_in(batch: Any) -> Any:
    """The labels of a batch: by their usual names, or the integers of a pair `(inputs, labels)`; None without any."""
    if isinstance(batch, Mapping):
        return next((batch[name] for name in _LABELS if name in batch), None)
    is_pair = isinstance(batch, (list, tuple)) and len(batch) == 2
    labels = batch[1] if is_pair else None
    return labels if isinstance(labels, Tensor) and not labels.is_floating_point() else None


def usual_size(batch: Any, batch_size: int | None = None) -> tuple[int, Tensor] | None:
    """Samples and tokens of the most usual batch, quickly: token ids and their mask by row. None for other batches."""
    try:
        ids, mask = batch[_IDS], batch[_MASK]
        rows, length = ids.shape
        is_plain = type(ids) is type(mask) is Tensor and mask.shape == (rows, length) and not mask.is_floating_point()
        is_known = rows > 1 and (batch_size is None or rows <= batch_size)
        if is_plain and is_known and _BOUNDARIES.isdisjoint(batch):
            return rows, torch.count_nonzero(mask)
    except Exception:  # the batch may be any object, with any methods
        return None
    return None


def samples_in(batch: Any, batch_size: int | None = None) -> int | None:
    """Number of samples in a batch of any structure; None if it is not certain. It never raises.

    - A packed batch (one row of several sequences): the number of its boundaries in `cu_seq_lens_q`, `position_ids` or
      `seq_idx`. The last two are read on the CPU only, because elsewhere that would be a host sync.
    - A list of rows (mappings, strings): their number.
    - Otherwise the first dimension of `input_ids`, or the one that all tensors share, or that of the labels if other
      tensors have it.

    Args:
        batch: a tensor, a mapping, a sequence or an object of them, nested or not.
        batch_size: the trainer's own batch size, if it is known. More samples than that are not the trainer's samples,
            and a single row without a mask may be several samples.
    """
    try:
        found = _samples(batch, batch_size)
        return None if found is None or (batch_size is not None and found > batch_size) else found
    except Exception:  # the batch may be any object, with any methods
        return None


def tokens_in(batch: Any) -> Tensor | None:
    """Number of tokens without padding, 0-d; None if it is not certain. It never raises.

    With attention masks (`attention_mask` or `*_attention_mask`), the positions that they keep. Masks of three or four
    dimensions keep a position that any query may attend to. Without a mask, all ids of a packed batch (one row).

    Args:
        batch: a mapping, a sequence or an object of them, nested or not.
    """
    try:
        counts = [_tokens(part) for part in _mappings(batch) if any(_is_of_tokens(name) for name in part)]
        known = [count for count in counts if count is not None]
        if not known or len(known) < len(counts):
            return None
        return known[0] if len(known) == 1 else torch.stack([count.to(known[0].device) for count in known]).sum()
    except Exception:  # the batch may be any object, with any methods
        return None


def masks_in(batch: Any) -> list[Tensor] | None:
    """The attention masks by row, `[rows, length]`, of a batch of any structure; None without one. It never raises.

    They are those of `attention_mask` and `*_attention_mask`; those of floats become booleans. None also if the batch
    holds token ids without such a mask, as packed rows do.
    """
    try:
        masks: list[Tensor] = []
        for part in _mappings(batch):
            found = [mask for name, mask in part.items() if isinstance(name, str) and name.endswith(_MASK)]
            if (_IDS in part and not found) or not all(map(_is_by_row, found)):
                return None
            masks += [_is_kept(mask) if mask.is_floating_point() else mask for mask in found]
        return masks or None
    except Exception:  # the batch may be any object, with any methods
        return None


def _is_by_row(mask: Any) -> bool:
    return isinstance(mask, Tensor) and mask.ndim == 2


def scalar_norm(norm: Any) -> Any:
    """The norm of all gradients, 0-d.

    Raises:
        ValueError: it has more than one element.
    """
    if isinstance(norm, Tensor) and norm.numel() != 1:
        raise ValueError(f"norm must be a scalar, got shape {tuple(norm.shape)}; pass the norm of all gradients")
    return norm.reshape(()) if type(norm) is Tensor else norm


def batch_count(name: str, number: Any) -> int:
    """The user's number of samples or tokens in a batch.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is negative.
    """
    try:
        count = operator.index(number)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a whole number, got {short(number)}; pass len(batch), or leave it out"
        ) from None
    if count < 0:
        raise ValueError(f"{name} must be at least 0, got {count}; leave it out if it is unknown")
    return count


def scalar_loss(loss: Tensor | float) -> Tensor:
    """The user's loss, 0-d.

    Raises:
        TypeError: it is not a number.
        ValueError: it has more than one element.
    """
    if not isinstance(loss, Tensor):
        if not hasattr(loss, "__float__"):
            raise TypeError(f"loss must be a number or a tensor, got {short(loss)}; pass the loss of the batch")
        return torch.tensor(float(loss))
    if loss.numel() != 1:
        raise ValueError(f"loss must be a scalar, got shape {tuple(loss.shape)}; reduce it, for example with .mean()")
    return loss.detach().reshape(()) if loss.ndim else loss


def _samples(batch: Any, batch_size: int | None) -> int | None:
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else None
    if isinstance(batch, list) and batch and all(isinstance(row, (Mapping, str, bytes)) for row in batch):
        return _samples_of_rows(batch)
    parts = [part for part in _mappings(batch) if _IDS in part or not _BOUNDARIES.isdisjoint(part)]
    if parts:
        return _agreed([_samples_of_ids(part, batch_size) for part in parts])
    sizes: Sequence[int | None] = list(_sizes(batch, batch_size))
    if len(set(sizes)) > 1 and isinstance(labels := labels_in(batch), Tensor) and labels.ndim:
        sizes = [size for size in sizes if size == labels.shape[0]][1:]  # another tensor besides the labels
    return _agreed(sizes)


def _samples_of_rows(rows: Sequence[Any]) -> int | None:
    """The number of rows, unless they are features of whole batches, as those of texts that are compared."""
    ids = [row.get(_IDS) if isinstance(row, Mapping) else None for row in rows]
    sizes = {each.shape[0] for each in ids if isinstance(each, Tensor) and each.ndim > 1}
    return len(rows) if sizes <= {1} else _agreed(tuple(sizes))


def _samples_of_ids(part: Mapping[Any, Any], batch_size: int | None) -> int | None:
    boundaries = next((part[name] for name in _BOUNDARIES if name in part), None)
    if isinstance(boundaries, Tensor) and boundaries.ndim == 1:
        return boundaries.shape[0] - 1
    ids = part.get(_IDS)
    if not isinstance(ids, Tensor) or not ids.ndim:
        return None
    if ids.ndim > 1 and ids.shape[0] > 1:
        return ids.shape[0]
    positions, index = part.get(_POSITIONS), part.get(_SEQUENCE_INDEX)
    for structure in (positions, index):
        if isinstance(structure, Tensor) and structure.numel() == ids.numel():
            if structure.device.type != "cpu":
                return None
            last, now = structure.flatten()[:-1], structure.flatten()[1:]
            if structure is positions and bool(((last == 0) & (now == 0)).any()):
                return None  # sequences of one token, or padding
            return int((now <= last if structure is positions else now != last).sum()) + 1
    mask = part.get(_MASK)
    is_one_row = ids.ndim > 1 and (batch_size == 1 or (isinstance(mask, Tensor) and mask.ndim <= 2))
    return 1 if is_one_row else None


def _tokens(part: Mapping[Any, Any]) -> Tensor | None:
    ids = part.get(_IDS)
    rows = ids.shape[0] if isinstance(ids, Tensor) and ids.ndim > 1 else None
    if isinstance(part.get(_MASK), (Tensor, list)):
        return _kept(torch.as_tensor(part[_MASK]), rows)
    masks = [mask for name, mask in part.items() if isinstance(name, str) and name.endswith(f"_{_MASK}")]
    counts = [_kept(mask, None) for mask in masks if isinstance(mask, Tensor)]
    if counts:
        return torch.stack([count for count in counts if count is not None]).sum() if None not in counts else None
    is_packed = rows == 1 or not _BOUNDARIES.isdisjoint(part)
    if not isinstance(ids, Tensor) or not (is_packed or (ids.ndim == 1 and _POSITIONS in part)):
        return None
    return torch.tensor(ids.numel())


def _is_of_tokens(name: Any) -> bool:
    return isinstance(name, str) and (name == _IDS or name.endswith(_MASK))


def _kept(mask: Tensor, rows: int | None) -> Tensor | None:
    """The number of positions that a mask keeps; None if its shape does not fit the rows."""
    kept = _is_kept(mask)
    if kept.ndim <= 2:
        return kept.sum() if kept.ndim < 2 or rows in (None, kept.shape[0]) else None
    batch = kept.shape[0]
    kept = kept.flatten(1, -2).any(1)  # positions that any query of any head may attend to
    if rows in (None, batch):
        return kept.sum()
    if batch == 1:
        return kept.sum() * rows
    return kept.reshape(rows, batch // rows, -1).any(1).sum() if batch % rows == 0 else None


def _is_kept(mask: Tensor) -> Tensor:
    """Which positions a mask keeps, of its shape."""
    if mask.is_floating_point():  # 0 and 1, or 0 and large negative numbers to add to the scores
        return torch.where(mask.amin() < 0, mask > _MASKED, (mask != 0) | (mask.amax() == 0))
    return mask != 0  # packed sequences may be numbered from 1


def _mappings(batch: Any, depth: int = 0) -> Iterator[Mapping[Any, Any]]:
    """Every mapping in a batch: by name in an object, or nested."""
    by_name = _by_name(batch, depth)
    if by_name is not None:
        yield by_name
    if depth < _MAX_DEPTH:
        for part in _parts(batch, by_name):
            if not isinstance(part, (Tensor, str, bytes)):
                yield from _mappings(part, depth + 1)


def _sizes(batch: Any, batch_size: int | None, depth: int = 0) -> Iterator[int | None]:
    """The number of samples by each tensor, array, and list of rows or strings; None where it is not certain."""
    shape = getattr(batch, "shape", None)
    is_sequence = isinstance(batch, list) or (depth > 0 and type(batch) is tuple)
    if shape is not None:
        if len(shape):
            yield int(shape[0])
    elif is_sequence and batch and all(isinstance(each, (str, bytes, Mapping)) for each in batch):
        yield _samples_of_rows(batch)
    elif is_sequence and len(batch) > 1 and _look_alike(batch):
        yield _samples_of_tensors(batch, batch_size)
    elif depth < _MAX_DEPTH:
        for part in _parts(batch, _by_name(batch, depth)):
            yield from _sizes(part, batch_size, depth + 1)


def _samples_of_tensors(tensors: Sequence[Tensor], batch_size: int | None) -> int | None:
    """Samples in tensors of one kind, which are rows that are not collated, or the inputs of one batch."""
    number, size = len(tensors), _agreed([tensor.shape[0] if tensor.ndim else 0 for tensor in tensors])
    if not tensors[0].ndim or (number == batch_size and size != batch_size):
        return number
    return size if number <= _MAX_INPUTS or size == batch_size else None


def _parts(batch: Any, by_name: Mapping[Any, Any] | None) -> Sequence[Any]:
    if by_name is not None:
        return list(by_name.values())
    is_nested = isinstance(batch, (list, tuple)) and not (batch and isinstance(batch[0], (int, float)))
    return batch if is_nested else ()


def _by_name(batch: Any, depth: int) -> Mapping[Any, Any] | None:
    """The parts of a mapping, a named tuple, a dataclass or the batch's own object, by name; None for other types."""
    parts = named_parts(batch)
    if parts or isinstance(batch, Mapping):
        return parts
    if depth or isinstance(batch, (Tensor, list, tuple, str, bytes)) or not hasattr(batch, "__dict__"):
        return None
    return {name: value for name, value in vars(batch).items() if not name.startswith("_")}


def _look_alike(batch: Sequence[Any]) -> bool:
    """Whether all elements are tensors of one kind: they may be rows that are not collated, or inputs of one batch."""
    kinds = {(each.ndim, each.dtype) if isinstance(each, Tensor) else None for each in batch}
    return len(kinds) == 1 and None not in kinds


def _agreed(sizes: Sequence[int | None]) -> int | None:
    """The size, if all are the same."""
    return sizes[0] if sizes and len(set(sizes)) == 1 else None
