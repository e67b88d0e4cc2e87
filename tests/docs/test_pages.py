"""Tests the pages of docs/ that explain sets and loops, and the links between all pages."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tbx_callbacks import load_config
from tbx_callbacks._config.json_schema import json_schema
from tests.helpers.runs import ROOT, Run

DOCS = ROOT / "docs"
PAGES = sorted(path for path in (*DOCS.rglob("*.md"), *ROOT.glob("*.md")))
SETS = (DOCS / "sets.md").read_text(encoding="utf-8")
LOOPS = (DOCS / "how-to" / "loops.md").read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """The anchors of a page: those of its headings, as GitHub and MkDocs make them, and its own."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
    return made | {re.sub(r"-+", "-", anchor) for anchor in made} | set(re.findall(r'id="([\w-]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)]+))?\)", text):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def test_every_page_is_in_navigation() -> None:
    listed = set(re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)}


def test_sets_page_example_loads() -> None:
    (example,) = [block for block in re.findall(r"```yaml\n(.*?)```", SETS, re.DOTALL) if "extends:" in block]
    config = load_config(yaml.safe_load(example))
    assert config.every == 50
    assert "memory" not in {item.name for item in config.items}


def test_sets_page_lists_every_key() -> None:
    table = SETS[SETS.index("## Keys") : SETS.index("## How often")]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(json_schema()["properties"])


def test_sets_page_shown_error_is_raised() -> None:
    shown = re.search(r"error: my_metrics\.yaml: (.*?)```", SETS, re.DOTALL)
    assert shown is not None
    with pytest.raises(ValueError, match="grad_norm") as raised:
        load_config({"metrics": ["loss", "clip", {"grad_norm": {"by": "layr"}}]})
    assert " ".join(shown.group(1).split()) == str(raised.value).removeprefix("a mapping: ")


@pytest.mark.parametrize("every", re.findall(r"^\| `([^`]+)` \|", SETS[SETS.index("## How often") :], re.MULTILINE)[1:])
def test_sets_page_cadence_is_accepted(every: str) -> None:
    assert load_config({"metrics": [{"grad_norm": {"every": yaml.safe_load(every)}}]}).items


LOOP_STEPS = {"runs/exp1": [10], "runs/tutorial": list(range(10, 201, 10)), "runs/accumulated": []}


@pytest.mark.parametrize("folder", LOOP_STEPS)
def test_loops_page_example_runs_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", LOOPS, re.DOTALL) if folder in block]
    code = "from tbx_callbacks import TbxLoop\n" + textwrap.dedent(code)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    names: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "criterion": torch.nn.CrossEntropyLoss(),
        "batches": [(torch.randn(5, 4), torch.randint(3, (5,))) for _ in range(10)],
        "accuracy": 0.5,
    }
    exec(code, names)
    read = Run(tmp_path / folder)
    if folder == "runs/accumulated":
        assert names["loop"].step == 2
    else:
        assert read.steps("train/loss") == LOOP_STEPS[folder]
        assert read.steps("grad_norm/total")
    if folder == "runs/tutorial":
        assert len(re.findall(r"# [123]", code)) == 3
        assert read.steps("Loss/train") == list(range(20))
