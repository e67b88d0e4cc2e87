"""Tests that each Chinese page has the headings, the code, the links and the figures of its English twin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.helpers.runs import ROOT, module_at

DOCS = ROOT / "docs"
CHINESE = DOCS / "zh"
GENERATED = {"findings.md": "findings", "metrics.md": "metrics"}  # page: the function that writes it
PAGES = [ROOT / "README.zh-CN.md", *sorted(CHINESE.rglob("*.md"))]
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)")
CHARACTER = r"[\u4e00-\u9fff]"
NUMBER = re.compile(r"\d+(?:\.\d+)*(?:e-?\d+)?")


def twin(page: Path) -> Path:
    """The English page of a Chinese one."""
    return ROOT / "README.md" if page.parent == ROOT else DOCS / page.relative_to(CHINESE)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    return FENCE.sub("", read(page))


def headings(page: Path) -> list[tuple[str, str]]:
    """The level and the text of each heading."""
    return re.findall(r"^(#+) (.*)$", prose(page), re.MULTILINE)


def linked(page: Path) -> list[Path]:
    """The files that a page links to, each as its English twin, without itself."""
    found = [(page.parent / target).resolve() for target in LINK.findall(prose(page))]
    english = {twin(path) if path in PAGES else path for path in found}
    return sorted(english - {twin(page) if page in PAGES else page})


def numbers(text: str) -> set[str]:
    """The numbers in prose, without those in code and in addresses; millions as in English."""
    words = re.sub(r"`[^`]*`|\]\([^)]*\)|TBX-[A-Z]+-\d+", " ", text)
    words = re.sub(r"(\d+)00 万", r"\1", words)
    return set(NUMBER.findall(words))


@pytest.fixture(params=PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_chinese_page_has_chinese_punctuation(page: Path) -> None:
    assert len(re.findall(CHARACTER, prose(page))) > 100
    assert re.findall(rf"{CHARACTER}[,;:?!()].*", prose(page)) == []


def test_chinese_page_has_same_headings(page: Path) -> None:
    chinese, english = headings(page), headings(twin(page))
    assert [level for level, _ in chinese] == [level for level, _ in english]
    for (_, text), (_, original) in zip(chinese, english, strict=True):
        assert text == original or not text.isascii(), f"{text!r} is {original!r} in English"


def test_chinese_page_has_same_code(page: Path) -> None:
    assert FENCE.findall(read(page)) == FENCE.findall(read(twin(page)))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=lambda path: path.stem)
def test_chinese_page_has_same_figures(page: Path) -> None:
    assert numbers(prose(page)) == numbers(prose(twin(page)))  # a generated page has shorter texts, with fewer figures


def test_chinese_page_has_same_links(page: Path) -> None:
    chinese, english = set(linked(page)), set(linked(twin(page)))
    assert chinese <= english if page.name in GENERATED else chinese == english


def test_chinese_page_and_twin_link_each_other(page: Path) -> None:
    def beginning(path: Path) -> list[Path]:
        return [(path.parent / target).resolve() for target in LINK.findall(read(path)[:200])]

    assert twin(page) in beginning(page)
    assert page in beginning(twin(page))


def test_chinese_links_prefer_chinese_pages(page: Path) -> None:
    found = [(page.parent / target).resolve() for target in LINK.findall(prose(page))]
    assert [path for path in found if path in map(twin, PAGES)] == [twin(page)]


@pytest.mark.parametrize("name", GENERATED)
def test_chinese_page_is_up_to_date(name: str) -> None:
    script = module_at(DOCS / "generate_chinese.py")
    texts = yaml.safe_load(read(CHINESE / "texts.yaml"))
    written = getattr(script, GENERATED[name])(read(DOCS / name), texts)
    assert written == read(CHINESE / name), "run: python docs/generate_chinese.py"


def test_chinese_texts_are_all_used() -> None:
    texts = yaml.safe_load(read(CHINESE / "texts.yaml"))
    english = {name: read(DOCS / name) for name in GENERATED}
    titles = {name: {title.split()[-1] for _, title in headings(DOCS / name)} for name in GENERATED}
    assert set(texts["findings"]) <= titles["findings.md"]
    assert set(texts["metrics"]) <= titles["metrics.md"]
    words = [*texts["symptoms"], *texts["groups"]]
    assert [title for title in words if f"| {title} |" not in english["findings.md"]] == []
    assert [caption for caption in texts["charts"] if f"[Chart: {caption}]" not in english["metrics.md"]] == []


def test_unknown_finding_without_words_raises() -> None:
    script = module_at(DOCS / "generate_chinese.py")
    texts = yaml.safe_load(read(CHINESE / "texts.yaml"))
    with pytest.raises(KeyError, match="new_rule"):
        script.findings("# Findings\n\n| a | b |\n\n| a | b |\n\n## TBX-NUM-099 new_rule\n", texts)
