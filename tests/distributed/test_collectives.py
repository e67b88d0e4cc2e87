"""How much ranks talk to each other: on due steps at most three times, on others never, of a size without N in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import ranks

COUNTED = Path(__file__).with_name("counted.py")


def found(folder: Path, strategy: str, number: int) -> dict[str, Any]:
    ended = ranks(COUNTED, strategy, folder, number=number, limit=120)
    assert [rank.code for rank in ended] == [0] * number, [rank.said[-3000:] for rank in ended]
    (line,) = [line for line in ended[0].said.splitlines() if line.startswith("found ")]
    said: dict[str, Any] = json.loads(line.removeprefix("found "))
    assert said["training"]  # of the collectives of torch.distributed there are those of the training, and no other
    assert not any(said["without"].values())
    return said


@pytest.mark.parametrize(("strategy", "least"), [("fsdp", 3), ("ddp", 2), ("fsdp-rules", 3), ("ddp-rules", 3)])
def test_collectives_of_a_step(tmp_path: Path, strategy: str, least: int) -> None:
    two, four = (found(tmp_path / str(number), strategy, number)["ours"] for number in (2, 4))
    for step in range(1, 13):
        calls = two[str(step)]
        if step % 3:
            assert not calls, step
        elif step > 3:  # at the first due step ranks learn from each other what there is
            assert [name for name, _ in calls] == ["allreduce"] * least
            assert calls == four[str(step)]  # the same number of elements on two ranks and on four
