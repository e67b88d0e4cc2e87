"""Tests the list of names in the details of checks."""

from __future__ import annotations

from tbx_callbacks._wiring.check import listed


def test_listed_names_once_and_counts_rest() -> None:
    assert listed(["a", "b", "a"]) == "a, b"
    assert listed("abcdef") == "a, b, c, d and 2 more"
    assert listed([]) == ""
