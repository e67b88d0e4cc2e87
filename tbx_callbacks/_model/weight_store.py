"""Keeps tensors outside of the device: in a file that a later process can read, or in the host's memory."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from tbx_callbacks._stats.flat import flat
from tbx_callbacks._stats.norms import square_norms

_MAGIC = b"tbxwts01"
_ID_BYTES, _LENGTH_BYTES = 16, 8
_TAIL = _ID_BYTES + _LENGTH_BYTES + len(_MAGIC)


@dataclass(frozen=True)
class Entry:
    """Describes one stored tensor."""

    layout: str
    """Which elements of the whole tensor these are, as text."""
    dtype: str
    numel: int
    """Number of real elements."""
    square: float
    """Sum of squares."""
    start: int = 0
    """Position in the file."""


class WeightStore(Protocol):
    """Stored tensors by name."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Descriptions of the tensors, by name."""

    def read(self, name: str, device: torch.device) -> Tensor:
        """Returns a tensor's real elements, 1-D, on a device. It does not wait for an accelerator.

        Raises:
            OSError: the file cannot be read any more.
        """


class MemoryStore:
    """Keeps copies in the host's memory, which is pinned where an accelerator reads them."""

    def __init__(self, tensors: Iterable[tuple[str, str, Tensor]]) -> None:
        self.entries: dict[str, Entry] = {}
        self._tensors: dict[str, Tensor] = {}
        for name, layout, tensor in tensors:
            host = _host_copy(tensor)
            self._tensors[name] = host.pin_memory() if tensor.device.type == "cuda" else host
            self.entries[name] = _entry(layout, host)

    def read(self, name: str, device: torch.device) -> Tensor:
        return self._tensors[name].to(device, non_blocking=device.type != "cpu")


class FileStore:
    """Keeps tensors in a file: their elements, one tensor after the other, then the index as JSON, then the file's id.

    The file is opened for each read, so that no open file remains, and read without a memory map: a file that other
    code shortens is an error and not the end of the process.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be read, or is incomplete.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with open(path, "rb") as file:
            self._id, start, size = _read_tail(file)
            file.seek(start)
            index = file.read(size)
        self.entries = {name: Entry(**entry) for name, entry in json.loads(index).items()}

    @classmethod
    def write(cls, path: str, tensors: Iterable[tuple[str, str, Tensor]]) -> FileStore:
        """Writes tensors, each with its name and layout, in place of an earlier file.

        Raises:
            OSError: the file cannot be written; nothing is left behind.
        """
        os.makedirs(os.path.dirname(path), exist_ok=True)
        draft = f"{path}.draft_{os.getpid()}"
        try:
            with open(draft, "wb") as file:
                entries: dict[str, Any] = {}
                for name, layout, tensor in tensors:
                    host = _host_copy(tensor)
                    entries[name] = asdict(_entry(layout, host, file.tell()))
                    file.write(host.view(torch.uint8).numpy().data)
                index = json.dumps(entries).encode()
                file.write(index + os.urandom(_ID_BYTES) + len(index).to_bytes(_LENGTH_BYTES, "little") + _MAGIC)
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
        return cls(path)

    def read(self, name: str, device: torch.device) -> Tensor:
        entry = self.entries[name]
        dtype = getattr(torch, entry.dtype)
        # A new pinned buffer for each tensor: torch uses one again as soon as the device has copied it.
        host = torch.empty(entry.numel * dtype.itemsize, dtype=torch.uint8, pin_memory=device.type == "cuda")
        try:
            with open(self._path, "rb") as file:
                if _read_tail(file)[0] != self._id:
                    raise OSError("another training has replaced it")
                file.seek(entry.start)
                file.readinto(host.numpy().data)
        except OSError as error:
            raise OSError(
                f"the initial weights in {self._path} must stay until the training ends, but they cannot be read:"
                f" {error.strerror or error}; start a new run to measure again"
            ) from error
        return host.view(dtype).to(device, non_blocking=device.type != "cpu")


def _host_copy(tensor: Tensor) -> Tensor:
    return flat(tensor).to("cpu", copy=True).contiguous()


def _entry(layout: str, host: Tensor, start: int = 0) -> Entry:
    (square,) = square_norms([host]).tolist()
    return Entry(layout, str(host.dtype).removeprefix("torch."), host.numel(), square, start)


def _read_tail(file: BinaryIO) -> tuple[bytes, int, int]:
    """Returns the id of a file, and the position and size of its index."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    length = int.from_bytes(tail[_ID_BYTES : _ID_BYTES + _LENGTH_BYTES], "little")
    if len(tail) < _TAIL or not tail.endswith(_MAGIC) or length > size - _TAIL:
        raise OSError(f"{file.name} must be a complete file of weights, but it is not")
    return tail[:_ID_BYTES], size - _TAIL - length, length
