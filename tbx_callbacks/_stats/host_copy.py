"""Copies tensors to the host, with one copy per device and type; the training does not wait for CUDA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tbx_callbacks._stats.types import Number


class HostCopy:
    """Copies numbers and vectors to the host.

    On CUDA the copies to pinned memory are queued behind the device's other work. `read` waits for them, on any thread.
    On other devices the copies are synchronous.

    Args:
        parts: numbers, tensors of one element, and 1-D tensors.
    """

    def __init__(self, parts: Sequence[Number]) -> None:
        self._parts: list[tuple[float, ...]] = []  # the garbage collector does not follow tuples of numbers
        flats: dict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = {}
        for index, part in enumerate(parts):
            if isinstance(part, Tensor):
                flats.setdefault((part.device, part.dtype), []).append((index, part.detach().reshape(-1)))
                self._parts.append(())
            else:
                self._parts.append((float(part),))
        self._events: list[tuple[torch.device, torch.cuda.Event]] = []
        self._copies = [
            ([(index, flat.numel()) for index, flat in chosen], self._copy(torch.cat([flat for _, flat in chosen])))
            for chosen in flats.values()
        ]

    @property
    def is_pending(self) -> bool:
        """Whether a copy may still be running."""
        return bool(self._events)

    @property
    def is_ready(self) -> bool:
        """Whether `read` would not wait."""
        return all(event.query() for _, event in self._events)

    def read(self) -> list[tuple[float, ...]]:
        """Waits for the copies and returns the numbers of each part; one for a number."""
        for device, event in self._events:
            # Otherwise synchronize creates a context on the current device: for a new thread another rank's device 0.
            with torch.cuda.device(device):
                event.synchronize()
        for chosen, copy in self._copies:
            numbers, start = copy if isinstance(copy, list) else copy.double().tolist(), 0
            for index, size in chosen:
                self._parts[index] = tuple(numbers[start : start + size])
                start += size
        self._copies = []
        return self._parts

    def _copy(self, packed: Tensor) -> Tensor | list[float]:
        if packed.device.type != "cuda":
            values: list[float] = packed.double().tolist()
            return values
        host = torch.empty(packed.shape, dtype=packed.dtype, device="cpu", pin_memory=True)
        host.copy_(packed, non_blocking=True)
        event = torch.cuda.Event(blocking=True)  # otherwise the waiting thread would keep a core busy
        event.record(torch.cuda.current_stream(packed.device))
        self._events.append((packed.device, event))
        return host
