"""Tests that docs/metrics.md matches the metrics."""

from __future__ import annotations

import html
import re

import pytest

from tbx_callbacks.metrics.registry import METRICS
from tests.helpers.doc_scripts import doc_script
from tests.helpers.runs import ROOT

SCRIPT = doc_script("generate_metrics")
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
SHOWN = html.unescape(PAGE.replace("<code>", "`").replace("</code>", "`"))
FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
PICTURED = {
    "loss",
    "grad_norm",
    "grad_norm_clipped",
    "clip",
    "weight_norm",
    "weight_histogram",
    "update_ratio",
    "activations",
    "nonfinite",
    "throughput",
    "time",
    "drift",
    "lora",
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_page_has_row_of_metric(name: str) -> None:
    cls = METRICS[name]
    summary = (cls.__doc__ or "").strip().partition("\n\n")[0].replace("\n    ", " ")
    tags = "<br>".join(f"`{tag}`" for tag in cls.tags)
    units = "<br>".join(unit or "–" for unit in cls.tags.values())  # noqa: RUF001
    assert f"| [`{name}`](#{name}) | {summary} | {tags} | {units} | {cls.cost} |" in SHOWN


def test_metrics_page_rows_name_known_metrics() -> None:
    assert set(re.findall(r"^\| \[`(\w+)`\]", PAGE, re.MULTILINE)) == set(METRICS)


def test_metrics_page_is_what_script_writes() -> None:
    assert SCRIPT.filled(PAGE) == PAGE


@pytest.mark.parametrize("name", METRICS)
def test_metrics_page_has_section_of_metric(name: str) -> None:
    assert PAGE.count(f"\n## {name}\n") == 1
    section = SCRIPT.section(name)
    assert section in PAGE
    for needed in ("**Tags:** ", "**Cost:** ", "**When to worry:** "):
        assert needed in section


def test_metrics_page_pictures_exist() -> None:
    assert {name for name, text in SCRIPT.TEXTS.items() if text.picture} == PICTURED
    for file in re.findall(r"^!\[[^\]]+\]\(([^)]+)\)$", PAGE, re.MULTILINE):
        assert "</svg>" in (ROOT / "docs" / file).read_text(encoding="utf-8")


def test_metrics_page_links_reach_findings() -> None:
    sections = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", FINDINGS, re.MULTILINE)}
    links = set(re.findall(r"\(findings\.md#([^)]+)\)", PAGE))
    assert len(links) > 40
    assert links <= sections
