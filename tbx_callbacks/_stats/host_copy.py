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
        scalars: numbers, or tensors of one element.
        vectors: 1-D tensors.
    """

    def __init__(self, scalars: Sequence[Number], vectors: Sequence[Tensor]) -> None:
        flats = [part.detach().reshape(1) for part in scalars if isinstance(part, Tensor)] + list(vectors)
        self._scalars = [None if isinstance(part, Tensor) else float(part) for part in scalars]
        self._sizes = [flat.numel() for flat in flats]
        indices: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for index, flat in enumerate(flats):
            indices.setdefault((flat.device, flat.dtype), []).append(index)
        self._events: list[tuple[torch.device, torch.cuda.Event]] = []
        self._copies = [
            (chosen, self._copy(torch.cat([flats[index] for index in chosen]))) for chosen in indices.values()
        ]

    @property
    def is_pending(self) -> bool:
        """Whether a copy may still be running."""
        return bool(self._events)

    def read(self) -> tuple[list[float], list[list[float]]]:
        """Waits for the copies and returns the numbers and the vectors."""
        for device, event in self._events:
            # Otherwise synchronize creates a context on the current device: for a new thread another rank's device 0.
            with torch.cuda.device(device):
                event.synchronize()
        parts: list[list[float]] = [[] for _ in self._sizes]
        for chosen, copy in self._copies:
            values_of_copy, start = copy if isinstance(copy, list) else copy.tolist(), 0
            for index in chosen:
                parts[index] = values_of_copy[start : start + self._sizes[index]]
                start += self._sizes[index]
        rest = iter(parts)
        numbers = [float(next(rest)[0]) if number is None else number for number in self._scalars]
        return numbers, list(rest)

    def _copy(self, packed: Tensor) -> Tensor | list[float]:
        if packed.device.type != "cuda":
            values: list[float] = packed.tolist()
            return values
        host = torch.empty(packed.shape, dtype=packed.dtype, device="cpu", pin_memory=True)
        host.copy_(packed, non_blocking=True)
        event = torch.cuda.Event(blocking=True)  # otherwise the waiting thread would keep a core busy
        event.record(torch.cuda.current_stream(packed.device))
        self._events.append((packed.device, event))
        return host
