"""Tests the collectives of a step: at most three when metrics are due, one more for decisions, none otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.launch import run_ranks

SCRIPT = Path(__file__).parent / "scripts" / "count_collectives.py"


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """The counted collectives by number of ranks and strategy."""
    counted = {}
    for number in (2, 4):
        ended = run_ranks(SCRIPT, tmp_path_factory.mktemp(str(number)), number=number, seconds=120)
        assert [rank.code for rank in ended] == [0] * number, [rank.printed[-3000:] for rank in ended]
        (line,) = [line for line in ended[0].printed.splitlines() if line.startswith("found ")]
        counted[number] = json.loads(line.removeprefix("found "))
    return counted


# Ranks merge ranges of shards and of activations, not of replicas. Where a rule may stop the training, rank 0 sends its
# decision in one more collective.
@pytest.mark.parametrize(
    ("strategy", "number"), [("fsdp", 3), ("ddp", 3), ("copies", 2), ("fsdp-rules", 3), ("copies-rules", 2)]
)
def test_collectives_of_due_steps_bounded(counts: dict[int, Any], strategy: str, number: int) -> None:
    for printed in counts.values():
        assert printed[strategy]["training"]  # torch.distributed counts only the training's own collectives
        assert not any(printed[strategy]["without"].values())
    two, four = (printed[strategy]["ours"] for printed in counts.values())
    # In the first step, ranks agree on the layout of its histograms; in the first three, on the checks of the wiring.
    for step in range(4, 13):
        calls = two[str(step)]
        if step % 3:
            assert not calls, step
        elif step > 6:  # at the first due step without these checks ranks exchange their tags
            decides = ["broadcast"] if strategy.endswith("rules") else []
            assert [name for name, _ in calls] == ["allreduce"] * number + decides
            assert calls == four[str(step)]  # the same number of elements on two ranks and on four
