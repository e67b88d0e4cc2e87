"""Tests that step values are packed into flat vectors and unpacked."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._model.parameters import PerGroup
from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.values import Derived, Histogram, Max, Mean, Norm, Rms, Sum, Unless
from tbx_callbacks.tags import HIDDEN


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
    assert values.finish_local() == {
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
    assert partials["mean"].sums == [6.0, 4.0]
    assert partials["max"].maxes == [2.0]
    merged = values.finish(
        {tag: partial._replace(sums=[2 * number for number in partial.sums]) for tag, partial in partials.items()}, {}
    )
    assert merged["norm"] == pytest.approx(18**0.5)
    assert merged["mean"] == 1.5
    assert merged["histogram"] == HistogramCounts((2, 4), 0.0, 1.0, 4.0, 4.0)


@pytest.mark.parametrize(
    ("owner", "expected"), [("one", {"max", "histogram", "text"}), ("max", {"norm", "mean", "histogram", "text"})]
)
def test_failure_flagged_on_any_rank_left_out(owner: str, expected: set[str]) -> None:
    values = step_values()
    values.flag_failure(owner, failed=True)
    assert set(values.finish_local()) == expected


def test_local_values_not_in_partials() -> None:
    values, other = step_values(), StepValues()
    values.add_local({"mine": Sum(torch.tensor(2.0)), "known": Max(3), "text": Text("mine")})
    other.add_local({"theirs": Sum(3.0), "nothing": Mean(0.0, 0)})
    values.update(other)
    partials = values.pack().partials()
    assert not {"mine", "known", "theirs"} & set(partials)
    finished = values.finish(partials, {})
    assert (finished["mine"], finished["known"], finished["theirs"]) == (2.0, 3.0, 3.0)
    assert finished["text"] == Text("mine")
    assert "nothing" not in finished
    assert all(type(finished[tag]) is float for tag in ("mine", "known", "theirs"))


def test_value_per_group_written_under_each_tag() -> None:
    values = StepValues()
    squares = PerGroup(["a", "b"], torch.tensor([4.0, 9.0]))
    values.add({"norm/{group}": Norm(squares), "rms/{group}": Rms(squares, {"a": 1, "b": torch.tensor(9)})})
    values.add({"unless/{group}": Unless(Norm(squares), torch.tensor(0.0))})
    values.add({"none/{group}": Norm(PerGroup([], torch.zeros(0)))})
    assert values.finish_local() == {
        "norm/a": 2.0,
        "norm/b": 3.0,
        "rms/a": 2.0,
        "rms/b": 1.0,
        "unless/a": 2.0,
        "unless/b": 3.0,
    }


def test_derived_reads_finished_numbers_and_facts() -> None:
    values = StepValues()
    values.add({f"{HIDDEN}norm": Norm(torch.tensor(9.0)), "kept": Sum(1.0), "dropped": Sum(0.0)}, "one")
    values.add(
        {
            "derived": Derived(
                lambda numbers: {
                    "derived": float(numbers[f"{HIDDEN}norm"]) / float(numbers["fact"]),  # type: ignore[arg-type]
                    "dropped": None,
                }
            )
        },
        "two",
    )
    assert values.finish_local({"fact": 2.0}) == {"derived": 1.5, "kept": 1.0}
    values.flag_failure("two", failed=True)
    assert values.finish_local({"fact": 2.0}) == {"kept": 1.0, "dropped": 0.0}


def test_count_histograms_uses_agreed_ranges() -> None:
    values = step_values()
    assert list(values.uncounted) == ["histogram"]
    values.count_histograms(
        lambda ranges: {tag: torch.tensor([-1.0, 3.0]).to(bounds) for tag, bounds in ranges.items()}
    )
    assert not values.uncounted
    histogram = values.finish_local()["histogram"]
    assert isinstance(histogram, HistogramCounts)
    assert (histogram.low, histogram.high, sum(histogram.counts)) == (-1.0, 3.0, 3)
