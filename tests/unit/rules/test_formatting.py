"""Findings as a line of the log and as Markdown."""

from __future__ import annotations

from tbx_callbacks.rules import Finding
from tbx_callbacks.rules.formatting import line, markdown


def test_finding_hostile_text_escaped() -> None:
    hostile = "<script>alert(1)</script>*a*|b|[x](javascript:1)\x1b[31m\n# head"
    finding = Finding("x", "error", (hostile,), (3,), hostile, hostile, hostile, {hostile: 1.0})
    text = markdown(finding, 5)
    assert "<" not in text
    assert r"\*a\*&#124;b&#124;\[x\]\(javascript:1\)?\[31m?\# head" in text
    assert "\x1b" not in line(finding)
    assert "\n" not in line(finding)
