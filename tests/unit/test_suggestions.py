"""Tests the suggestions at the end of error messages."""

from __future__ import annotations

from tbx_callbacks._suggestions import suggest


def test_suggest_near_name_first_then_known_ones() -> None:
    assert suggest("los", ("loss", "clip"), what="metrics") == "did you mean 'loss'? known metrics: loss, clip"
    assert suggest("xyz", ("loss", "clip")) == "known names: loss, clip"
    assert suggest("xyz", map(str, range(20)), most=2) == "known names: 0, 1, ..."
