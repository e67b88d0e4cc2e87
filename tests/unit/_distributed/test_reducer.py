"""Tests the reducer with a stub for another rank."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._stats.host_copy import HostCopy


def test_reducer_merge_ranges_one_copy_keeps_types(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[torch.Size] = []
    copy = HostCopy._copy
    monkeypatch.setattr(HostCopy, "_copy", lambda self, packed: (copies.append(packed.shape), copy(self, packed))[1])

    class Other:
        """A stub of another rank whose smallest element is -5 and largest is 0 in every range."""

        rank, size = 0, 1

        def all_reduce_max(self, numbers: torch.Tensor) -> None:
            if len(numbers) > 5:  # the numbers after the header; see Merger
                numbers[5:7] = torch.maximum(numbers[5:7], torch.tensor([5.0, 0.0]))

        def broadcast(self, numbers: torch.Tensor, root: int) -> None:
            pass

        def close(self) -> bool:
            return True

    ranks = Reducer(Other(), 10.0)  # type: ignore[arg-type]
    ranges = {f"tag {n}": torch.tensor([-float(n), n + 0.5], dtype=torch.float64) for n in range(3)}
    merged = ranks.merge_ranges(1, ["due"], ranges)
    ranks.shutdown(10.0)
    assert copies == [torch.Size([6])]
    assert {tag: bounds.tolist() for tag, bounds in merged.items()} == {
        "tag 0": [-5.0, 0.5],
        "tag 1": [-1.0, 1.5],
        "tag 2": [-2.0, 2.5],
    }
