"""Tests names of runs as plain text for plotly."""

from __future__ import annotations

from tbx_callbacks.report.labels import plain, short
from tests.helpers.report_runs import HOSTILE


def test_plain_and_short_names_safe_for_plotly() -> None:
    assert "<" not in plain(HOSTILE)
    assert plain("a&b\x1b") == "a&amp;b?"
    assert len(plain("x" * 500)) < 90
    assert short(["a.layer.1", "b.layer.1", "c"]) == {"a.layer.1": "a.layer.1", "b.layer.1": "b.layer.1", "c": "c"}
