"""Writes docs/zh/findings.md and docs/zh/metrics.md: the English pages in the words of docs/zh/texts.yaml.

Run: python docs/generate_chinese.py  (after generate_findings.py and generate_metrics.py)

Headings, printed texts, formulas, code, charts and thresholds are those of the English pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).parent
TEXTS = DOCS / "zh" / "texts.yaml"
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_CHART = re.compile(r"^!\[Chart: (.*)\]\((.*)\)$", re.MULTILINE)
_NOTE = "<!-- Written by docs/generate_chinese.py: change docs/zh/texts.yaml instead. -->"

Words = Mapping[str, Any]


def findings(english: str, texts: Words) -> str:
    """Returns the page on findings.

    Args:
        english: the English page.
        texts: the Chinese words.

    Raises:
        KeyError: the English page has a finding, a symptom, a group or a chart without Chinese words.
    """
    before, sections = _split(english)
    symptoms, groups = _tables(before)
    page, names = texts["findings_page"], texts["findings"]
    lines = [
        *_beginning("findings.md", page, number=len(sections)),
        _table(page["symptoms"], [(texts["symptoms"][title], _listed(found)) for title, found in symptoms]),
        _table(page["groups"], [(texts["groups"][title], _named(found, names)) for title, found in groups]),
        page["examples"],
    ]
    for title, section in sections:
        lines += [f"## {title}", *_finding(section, names[title.split()[-1]], page)]
    return "\n\n".join(lines) + "\n"


def metrics(english: str, texts: Words) -> str:
    """Returns the page on metrics.

    Args:
        english: the English page.
        texts: the Chinese words.

    Raises:
        KeyError: the English page has a metric, a unit or a chart without Chinese words.
    """
    _, sections = _split(english)
    page, names = texts["metrics_page"], texts["metrics"]
    rows = [(f"[`{name}`](#{name})", names[name]["means"]) for name, _ in sections]
    lines = [*_beginning("metrics.md", page), _table(page["metrics"], rows)]
    for name, section in sections:
        lines += [f"## {name}", *_metric(section, names[name], texts)]
    return "\n\n".join(lines) + "\n"


def _beginning(name: str, page: Words, **values: Any) -> Iterator[str]:
    yield f"# {page['title']}"
    yield f"[English](../{name})"
    yield _NOTE
    yield page["intro"].format(**values)


def _table(head: str, rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join([head, "|---|---|", *(f"| {one} | {other} |" for one, other in rows)])


def _finding(section: str, words: Words, page: Words) -> Iterator[str]:
    blocks = _FENCE.findall(section)
    code = [block for block in blocks if block.startswith("```python")]
    yield page["meaning"].format(**words)
    yield from (block for block in blocks if block not in code)
    for caption, path in _CHART.findall(section):
        tags, _, step = caption.removesuffix(" marked").partition(", step ")
        yield page["marked_chart" if step else "chart"].format(tags=tags, step=step, path=path)
    yield page["fix"].format(**words)
    yield from code
    reads, _, thresholds = re.findall(r"^Reads .*$", section, re.MULTILINE)[0].partition(" Thresholds: ")
    if links := re.findall(r"\[\w+\]\(metrics\.md#\w+\)", reads):
        yield page["reads"].format(metrics=_listed(", ".join(dict.fromkeys(links))))
    if thresholds:
        yield page["thresholds"].format(thresholds=_listed(thresholds.removesuffix(".")))


def _metric(section: str, words: Words, texts: Words) -> Iterator[str]:
    page = texts["metrics_page"]
    yield words["means"]
    yield from _FENCE.findall(section)
    if "symbols" in words:
        yield words["symbols"]
    for caption, path in _CHART.findall(section):
        yield page["chart"].format(caption=texts["charts"][caption], path=path)
    tags = re.search(r"^\*\*Tags:\*\* (.*)\.$", section, re.MULTILINE)
    if tags is not None:
        units = re.sub(r" \(([^)]*)\)", lambda unit: str(page["unit"].format(unit=texts["units"][unit[1]])), tags[1])
        yield page["tags"].format(tags=_listed(units))
    yield page["worry"].format(**words)
    read = re.search(r"Findings that read it: (.*)\.$", section, re.MULTILINE)
    if read is not None:
        yield page["findings"].format(findings=_listed(read[1]))


def _split(page: str) -> tuple[str, list[tuple[str, str]]]:
    """Splits a page into the part before its sections, and the sections by title."""
    before, *parts = re.split(r"^## ", page, flags=re.MULTILINE)
    return before, [(title, section) for title, _, section in (part.partition("\n") for part in parts)]


def _tables(text: str) -> list[list[tuple[str, str]]]:
    """The rows of the tables before the sections: title and findings."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [re.findall(r"^\| (.*?) \| (\[.*) \|$", table, re.MULTILINE) for table in tables]


def _listed(words: str) -> str:
    return words.replace(", ", "、")


def _named(found: str, names: Words) -> str:
    """The links to findings, each followed by its Chinese name."""
    return _listed(re.sub(r"\[(\w+)\]\([^)]*\)", lambda link: f"{link[0]} {names[link[1]]['name']}", found))


def main() -> None:
    """Writes both pages."""
    texts = yaml.safe_load(TEXTS.read_text(encoding="utf-8"))
    for name, page in (("findings.md", findings), ("metrics.md", metrics)):
        english = (DOCS / name).read_text(encoding="utf-8")
        (DOCS / "zh" / name).write_text(page(english, texts), encoding="utf-8")


if __name__ == "__main__":
    main()
