"""Tests the connection of ranks, on threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from tbx_callbacks._distributed.group import GlooGroup, rendezvous


def test_group_two_ranks_add_numbers() -> None:
    store = HashStore()

    def rank(number: int) -> list[float]:
        group, numbers = GlooGroup(store, number, 2, 10.0), torch.tensor([1.0, number])
        group.all_reduce_sum(numbers)
        return numbers.tolist()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(rank, range(2))) == [[2.0, 1.0], [2.0, 1.0]]


def test_group_failure_of_one_rank_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    store, gloo = HashStore(), dist.ProcessGroupGloo

    def connect(store: Any, rank: int, *args: Any) -> Any:
        if rank == 1:
            raise RuntimeError("[enforce fail at device.cc:84] no such interface\nmore")
        return gloo(store, rank, *args)

    monkeypatch.setattr(dist, "ProcessGroupGloo", connect)
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for found in [pool.submit(GlooGroup, store, rank, 2, 5.0) for rank in range(2)]:
            with pytest.raises(RuntimeError, match=r"^rank 1 cannot open a connection .no such interface.$"):
                found.result()
    assert time.monotonic() - started < 4


def test_rendezvous_without_process_group_none() -> None:
    assert rendezvous() is None
