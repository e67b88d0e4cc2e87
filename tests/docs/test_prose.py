"""Checks the rules of prose that a program can check: docstrings, log messages, findings and names of tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT

QUESTION = re.compile(r"(What|How|Where|Whether|Which|When|From)\b")
PACKAGE = sorted((ROOT / "tbx_callbacks").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_WORDS = {"log message": 25, "test name": 8}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def texts(node: ast.AST) -> str:
    """The constant text of an expression, without placeholders and inserted values."""
    parts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return re.sub(r"%[-+0-9.]*[a-z%]", "", " ".join(parts))


def log_messages(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            logs = isinstance(node.func.value, ast.Name) and node.func.value.id == "logger"
            if logs and node.func.attr in ("debug", "info", "warning", "error"):
                yield texts(node.args[0])


def finding_texts(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
            yield from (texts(keyword.value) for keyword in node.keywords if keyword.arg in ("means", "advice"))


@pytest.mark.parametrize("path", [*PACKAGE, *RECIPES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_module_docstring_starts_with_no_question_word(path: Path) -> None:
    docstring = ast.get_docstring(tree(path)) or ""
    assert not QUESTION.match(docstring), docstring.partition("\n")[0]


def test_log_messages_have_at_most_25_words() -> None:
    messages = [(path.name, text) for path in PACKAGE for text in log_messages(tree(path))]
    assert len(messages) > 30  # the search works
    assert [found for found in messages if len(found[1].split()) > MOST_WORDS["log message"]] == []


def test_findings_name_no_model_or_optimizer() -> None:
    found = [text for path in PACKAGE if path.parent.name == "rules" for text in finding_texts(tree(path))]
    assert len(found) > 40
    assert [text for text in found if re.search(r"\b(BERT|RoBERTa|GPT|Adam|AdamW|SGD)\b", text)] == []


def test_test_names_have_at_most_eight_words() -> None:
    names = [
        (path.name, node.name)
        for path in TESTS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [found for found in names if found[1].count("_") > MOST_WORDS["test name"]] == []


def test_prose_rules_can_fail() -> None:
    bad = ast.parse('logger.warning("%s " + "word " * 1, x)\nFinding(means=f"as in {x} BERT", advice="")')
    assert list(log_messages(bad)) == ["  word "]
    assert list(finding_texts(bad)) == ["as in   BERT", ""]
    assert QUESTION.match("What a rule concludes.")
