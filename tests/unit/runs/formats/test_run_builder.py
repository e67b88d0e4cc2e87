"""Tests how a run is built, and what is said of values that are left out."""

from __future__ import annotations

from tbx_callbacks.runs.event_values import named
from tbx_callbacks.runs.formats.run_builder import LeftOut, RunBuilder


def test_run_builder_cut_removes_later_points() -> None:
    builder = RunBuilder()
    for step in range(1, 6):
        builder.scalars["loss"].add(step, 1.0 / step, float(step))
        builder.texts["note"].add(step, str(step), float(step))
    builder.scalars["late"].add(5, 1.0, 5.0)
    builder.cut(3)
    run = builder.run(source="a.jsonl", lacks=["histograms"], problems=["b: damaged"])
    assert run.scalars["loss"].steps.tolist() == [1, 2]
    assert run.texts["note"].values == ("1", "2")
    assert "late" not in run.scalars
    assert (run.source, run.lacks, run.left_out) == ("a.jsonl", ("histograms",), ("b: damaged (left out)",))


def test_left_out_counts_by_reason() -> None:
    left_out = LeftOut()
    assert left_out.sentences() == ()
    left_out.add(named("a\x1b", 3), "no")
    assert left_out.sentences() == ("the value of 'a\\x1b' at step 3 is left out: no",)
    for step in range(1000):
        left_out.add(named("b", step), "no")
    left_out.add("c", "other")
    assert left_out.sentences()[0].startswith("the value of 'a\\x1b' at step 3 and 1,000 more are left out: no")
    assert left_out.sentences()[1] == "c is left out: other"
