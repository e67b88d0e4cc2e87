"""Tests copies of values from a device to the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tbx_callbacks._stats.host_copy import HostCopy


def test_host_copy_read_returns_values_in_order() -> None:
    scalars = [1.5, torch.tensor(2.0), torch.tensor([3], dtype=torch.int64), 4, torch.tensor(5.0, dtype=torch.float64)]
    vectors = [torch.tensor([6.0, 7.0]), torch.empty(0), torch.tensor([8.0], dtype=torch.float64)]
    copy = HostCopy([*scalars, *vectors])
    assert not copy.is_pending
    expected = [(1.5,), (2.0,), (3.0,), (4.0,), (5.0,), (6.0, 7.0), (), (8.0,)]
    assert copy.read() == copy.read() == expected
    assert all(type(number) is float for part in copy.read() for number in part)
    assert HostCopy([]).read() == []


def test_host_copy_read_waits_on_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(chosen.index)
        yield
        current.pop()

    class Event:
        def synchronize(self) -> None:
            waited.append(current[-1])

    monkeypatch.setattr(torch.cuda, "device", device)
    waited: list[int] = []
    fetch = HostCopy([1.0])
    fetch._events = [(torch.device("cuda", 3), Event()), (torch.device("cuda", 1), Event())]  # type: ignore[list-item]
    assert fetch.read() == [(1.0,)]
    assert waited == [3, 1]
    assert current == [0]
