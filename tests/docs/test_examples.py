"""Checks that the examples of docs/ use public names only."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator

import pytest

from tests.helpers.runs import ROOT

EXAMPLES = ("ignite_adapter.py", "fabric_example.py")


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def private_names(code: str) -> Iterator[str]:
    """Imports and attributes with a leading underscore, and names that the imported package does not export."""
    tree = ast.parse(code)
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if is_private(name.name))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            public = importlib.import_module(module).__all__ if module.startswith("tbx_callbacks") else None
            for name in node.names:
                if is_private(f"{module}.{name.name}") or (public is not None and name.name not in public):
                    yield f"{module}.{name.name}"
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_private(node.value.strip()):
            yield node.value  # getattr(session, "_engine")


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_uses_public_names_only(name: str) -> None:
    assert list(private_names((ROOT / "docs" / name).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import tbx_callbacks._engine",
        "from tbx_callbacks.integrations import StepCounter",
        "from lightning.fabric.wrappers import _FabricModule",
        "session._engine",
        "getattr(session, '_engine')",
    ],
)
def test_private_names_in_code_found(code: str) -> None:
    assert len(list(private_names(code))) == 1
