"""Tests that docs/findings.md has a section for each rule, with the words and numbers of the rules as they are now."""

from __future__ import annotations

import re

import pytest

from tbx_callbacks.rules import RULES
from tests.helpers.doc_scripts import doc_script
from tests.helpers.runs import ROOT

SCRIPT = doc_script("generate_findings")
PAGE = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
EVIDENCE = SCRIPT.read_evidence()


@pytest.mark.parametrize("rule", RULES)
def test_findings_page_section_is_up_to_date(rule: str) -> None:
    """The rule is applied again to the stored series of its run."""
    assert SCRIPT.section(rule, EVIDENCE[rule]) in PAGE


def test_findings_page_is_what_script_writes() -> None:
    assert SCRIPT.page(EVIDENCE) == PAGE


@pytest.mark.parametrize("rule", RULES)
def test_findings_page_chart_exists(rule: str) -> None:
    chart = ROOT / "docs" / "findings" / f"{rule}.svg"
    assert f"(findings/{rule}.svg)" in PAGE
    assert chart.stat().st_size < 15_000
    text = chart.read_text(encoding="utf-8")
    assert "</svg>" in text
    assert RULES[rule].code in text  # its title


def test_findings_page_links_reach_sections() -> None:
    sections = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}
    assert len(sections) == len(RULES)
    assert {*re.findall(r"\(#([^)]+)\)", PAGE)} == sections


def test_findings_page_symptoms_name_every_rule() -> None:
    assert {rule for rules in SCRIPT.SYMPTOMS.values() for rule in rules} == set(RULES)
    assert set(SCRIPT.TEXTS) == set(RULES)


def test_findings_page_code_is_python() -> None:
    for rule, text in SCRIPT.TEXTS.items():
        compile(text.fix, rule, "exec")
        assert len(text.fix.splitlines()) <= 4


def test_findings_evidence_is_small() -> None:
    assert SCRIPT.EVIDENCE.stat().st_size < 200_000
