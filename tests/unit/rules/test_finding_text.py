"""Tests findings as a log line and as Markdown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tbx_callbacks.rules import Finding
from tbx_callbacks.rules.finding_text import line, markdown, severity_of


def test_finding_hostile_text_escaped() -> None:
    hostile = "<script>alert(1)</script>*a*|b|[x](javascript:1)\x1b[31m\n# head"
    finding = Finding("x", "error", (hostile,), (3,), hostile, hostile, hostile, {hostile: 1.0})
    text = markdown(finding, 5)
    assert "<" not in text
    assert r"\*a\*&#124;b&#124;\[x\]\(javascript:1\)?\[31m?\# head" in text
    assert "\x1b" not in line(finding)
    assert "\n" not in line(finding)


FINDING = Finding("spike", "warning", ("train/loss",), (40, 50), "It jumped.", "Look at it.", "PaLM", {"loss": 5.0})


def test_line_names_severity_step_and_evidence() -> None:
    assert line(FINDING, "; saved") == (
        "warning spike since step 40: It jumped. [train/loss: loss 5] try: Look at it.; saved"
    )


def test_finding_text_shows_code_and_name() -> None:
    coded = replace(FINDING, code="TBX-LOSS-002")
    assert line(coded).startswith("warning TBX-LOSS-002 spike since step 40: It jumped.")
    assert markdown(coded, 44).startswith("**warning: spike** (TBX-LOSS-002), found at step 44\n\n")
    assert severity_of(markdown(coded, 44)) == "warning"
    hostile = replace(FINDING, code="*\x1b|<b>")
    assert "\x1b" not in line(hostile)
    assert r"(\*?&#124;&lt;b&gt;)" in markdown(hostile, 44)


def test_markdown_holds_evidence_and_source() -> None:
    parts = markdown(FINDING, 44).split("\n\n")
    assert parts[0] == "**warning: spike**, found at step 44"
    assert "**Evidence:** train/loss; steps 40, 50" in parts
    assert "| number | value |\n|---|---|\n| loss | 5 |" in parts
    assert parts[-1] == "Source: PaLM"


@pytest.mark.parametrize(
    ("text", "severity"),
    [(markdown(FINDING, 44), "warning"), ("**error: x**", "error"), ("**odd: x**", None), ("", None)],
)
def test_severity_of_alert_text(text: str, severity: str | None) -> None:
    assert severity_of(text) == severity
