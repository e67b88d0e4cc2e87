"""Tests that step values are packed into flat vectors and unpacked."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks._distributed.packing import Partial, StepValues, fill_part
from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.values import Histogram, Max, Mean, Norm, Sum


def step_values() -> StepValues:
    """Values of three metrics, one of them on the host only."""
    values = StepValues()
    values.add({"norm": Norm(torch.tensor(9.0)), "mean": Mean(torch.tensor(6), 4)}, "one")
    values.add({"max": Max(2.0), "histogram": Histogram((torch.tensor([0.0, 1.0, 1.0]),), bins=2)}, "two")
    values.add({"text": Text("words")})
    return values


def test_step_values_packed_and_finished_exact() -> None:
    values = step_values()
    assert set(values.tags) == {"failed:one", "failed:two", "norm", "mean", "max", "histogram", "text"}
    assert values.finish_local({}) == {
        "norm": 3.0,
        "mean": 1.5,
        "max": 2.0,
        "histogram": HistogramCounts((1, 2), 0.0, 1.0, 2.0, 2.0),
        "text": Text("words"),
    }


def test_partials_summed_over_ranks_finish_as_one() -> None:
    values = step_values()
    packed = values.pack()
    assert not packed.is_pending
    partials = packed.partials()
    assert partials["mean"].sums == {"0": 6.0, "1": 4.0}
    assert partials["max"].maxes == {"0": 2.0}
    for partial in partials.values():
        partial.sums = {name: 2 * number for name, number in partial.sums.items()}
    merged = values.finish(partials, {})
    assert merged["norm"] == pytest.approx(18**0.5)
    assert merged["mean"] == 1.5
    assert merged["histogram"] == HistogramCounts((2, 4), 0.0, 1.0, 4.0, 4.0)


@pytest.mark.parametrize(
    ("owner", "expected"), [("one", {"max", "histogram", "text"}), ("max", {"norm", "mean", "histogram", "text"})]
)
def test_failure_flagged_on_any_rank_left_out(owner: str, expected: set[str]) -> None:
    values = step_values()
    values.flag_failure(owner, failed=True)
    assert set(values.finish_local({})) == expected


def test_local_values_not_in_partials() -> None:
    values, other = step_values(), StepValues()
    values.add_local({"mine": Sum(2.0)})
    other.add({"theirs": Sum(3.0)})
    values.merge_local(other)
    partials = values.pack().partials()
    assert not {"mine", "theirs"} & set(partials)
    finished = values.finish(partials, {})
    assert (finished["mine"], finished["theirs"]) == (2.0, 3.0)


def test_count_histograms_uses_agreed_ranges() -> None:
    values = step_values()
    assert list(values.uncounted) == ["histogram"]
    values.count_histograms(
        lambda ranges: {tag: torch.tensor([-1.0, 3.0]).to(bounds) for tag, bounds in ranges.items()}
    )
    assert not values.uncounted
    histogram = values.finish_local({})["histogram"]
    assert isinstance(histogram, HistogramCounts)
    assert (histogram.low, histogram.high, sum(histogram.counts)) == (-1.0, 3.0, 3)


def test_partial_empty_like_keeps_shape_only() -> None:
    partial = Partial(Norm(torch.tensor(4.0)), {"0": 4.0}, {"a": 1.0}, "one")
    assert partial.empty_like() == Partial(Norm(0.0), {"0": 0.0}, {"a": 0.0}, "one")
    numbers = fill_part("tag", partial, partial.empty_like(), {("tag", "0"): 16.0}, {("tag", "a"): 5.0})
    assert (numbers.result({}), numbers.maxes) == (4.0, {"a": 5.0})
