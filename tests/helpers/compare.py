"""Compares the run of several ranks with the run of one process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from tests.helpers.runs import Run

TIMES = ("runtime", "samples", "steps")
CLOCKS = ("perf/", "memory/", *(f"train/train_{name}" for name in TIMES), *(f"eval/{name}" for name in TIMES))
PADDING = ("train/total_flos",)  # each rank pads to its own longest row
_STILL = 0.01  # the share of a key's bias among a layer's elements: its gradient is rounding, which may be exactly 0


def compare(
    read: Run,
    alone: Run,
    *,
    without: Collection[str] = (),
    more: Collection[str] = (),
    rel: float = 1e-5,
    least: float = 1e-7,
) -> None:
    """Asserts that two runs have the same tags, steps and values, and that the ranks' copies never differed.

    Args:
        read: the run of several ranks.
        alone: the run of one process.
        without: prefixes of the tags that several ranks leave out.
        more: additional tags that only several ranks write, beside the largest loss.
        rel: relative tolerance.
        least: absolute tolerance. A key's bias has only rounding errors as gradient, since softmax ignores it; Adam
            makes whole steps of them, so that the bias itself is not compared.
    """
    left_out = tuple(without)
    expected = {tag: series for tag, series in alone.scalars.items() if not tag.startswith(left_out)}
    copies = {tag: series for tag, series in read.scalars.items() if tag.startswith("replicas/")}
    assert {value for series in copies.values() for _, value in series} <= {0.0}, copies
    tags = {*read.scalars} - {"train/loss_max", "memory/largest_rank", *copies, *more}
    assert tags == {*expected}, tags ^ {*expected}
    for tag, series in expected.items():
        if tag.startswith((*CLOCKS, *PADDING)) or (tag.endswith("key.bias") and not tag.startswith("grad")):
            assert read.steps(tag) == alone.steps(tag), tag
        else:
            margin = _STILL if tag.startswith("moved_share/") else least
            values = [(step, pytest.approx(value, rel=rel, abs=margin)) for step, value in series]
            assert read.scalars[tag] == values, tag
    for step in read.steps("perf/samples_per_s") if "perf/samples_per_s" in read.scalars else ():
        for unit in ("samples", "tokens"):
            per_step = [run.at(f"perf/{unit}_per_s")[step] / run.at("perf/steps_per_s")[step] for run in (read, alone)]
            assert per_step[0] == pytest.approx(per_step[1], rel=1e-3)
    histograms = {tag: protos for tag, protos in alone.histograms.items() if not tag.startswith(left_out)}
    assert set(read.histograms) == set(histograms) != set()
    for tag, protos in histograms.items():
        assert list(read.histograms[tag]) == list(protos)
        for step, proto in protos.items():
            same_histogram(read.histograms[tag][step], proto, f"{tag} at {step}")


def same_histogram(read: Any, alone: Any, tag: str) -> None:
    """Asserts equal edges and numbers of elements; rounding may move an element across an edge."""
    width = alone.bucket_limit[-1] - alone.bucket_limit[0]
    assert read.num == alone.num, tag
    assert list(read.bucket_limit) == pytest.approx(list(alone.bucket_limit), rel=1e-4, abs=1e-5 * width + 1e-7), tag
    assert sum(abs(a - b) for a, b in zip(read.bucket, alone.bucket, strict=True)) <= 4, tag
