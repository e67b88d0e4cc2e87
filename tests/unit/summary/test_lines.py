"""Tests that texts fit their limit."""

from __future__ import annotations

import pytest

from tbx_callbacks.rules import Finding
from tbx_callbacks.summary.lines import LIMIT, findings_lines, fit


def finding(number: int, severity: str = "warning") -> Finding:
    return Finding("rule", severity, ("a",), (number,), "means " * 20, "advice " * 20, "source")  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, 1, 10, 1000])
def test_fit_text_never_longer_than_limit(number: int) -> None:
    text = fit(f"line {n} " + "x" * (n % 400) for n in range(number))
    assert len(text) <= LIMIT
    assert text.endswith("... cut here; --json has everything\n") == (number > 10)


def test_fit_control_characters_shown_as_text() -> None:
    assert "\x1b" not in fit(["a\x1b[31m\nb"])


def test_findings_lines_leave_room_for_others() -> None:
    lines = list(findings_lines([finding(n) for n in range(40)], 800))
    assert sum(map(len, lines)) < 1100
    assert lines[-1].endswith("more findings; --json has them all")
    assert len(list(findings_lines([finding(1, "note")], 1))) == 1
