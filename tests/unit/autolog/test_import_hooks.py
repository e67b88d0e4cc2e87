"""Tests actions after imports on real modules."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tbx_callbacks.autolog.import_hooks import ImportHooks

NAMES = ("tbx_hooked", "tbx_hooked.part", "tbx_other")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    package = tmp_path / "code"
    (package / "tbx_hooked").mkdir(parents=True)
    (package / "tbx_hooked" / "__init__.py").touch()
    (package / "tbx_hooked" / "part.py").write_text("number = 3\n")
    (package / "tbx_other.py").write_text("from tbx_hooked import part\n")
    monkeypatch.syspath_prepend(package)
    yield package
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def hooks() -> Iterator[ImportHooks]:
    made = ImportHooks()
    yield made
    if made in sys.meta_path:
        sys.meta_path.remove(made)


def test_action_on_imported_module_runs_now(hooks: ImportHooks) -> None:
    seen: list[ModuleType] = []
    hooks.after_import("json", seen.append)
    assert seen == [json]
    assert hooks not in sys.meta_path


def test_action_runs_once_after_the_import(folder: Path, hooks: ImportHooks) -> None:
    seen: list[int] = []
    hooks.after_import("tbx_hooked.part", lambda module: seen.append(module.number))
    assert importlib.util.find_spec("tbx_hooked.part") is not None  # as libraries look for what is installed
    assert seen == []
    import tbx_other  # type: ignore[import-not-found]

    assert seen == [3]
    assert hooks not in sys.meta_path
    assert "exec_module" not in vars(tbx_other.part.__loader__)
    assert type(tbx_other.part.__spec__.loader).__name__ == "SourceFileLoader"
    importlib.reload(tbx_other.part)
    assert seen == [3]


def test_action_after_failed_import_waits(folder: Path, hooks: ImportHooks) -> None:
    file, seen = folder / "tbx_hooked" / "part.py", []
    good = file.read_text()
    file.write_text("raise ValueError('not today')\n")
    hooks.after_import("tbx_hooked.part", seen.append)
    with pytest.raises(ValueError, match="not today"):
        importlib.import_module("tbx_hooked.part")
    assert seen == []
    file.write_text(good + "# longer than before\n")
    importlib.invalidate_caches()
    assert seen == [importlib.import_module("tbx_hooked.part")]


def test_action_in_archive_runs_for_its_module(
    tmp_path: Path, folder: Path, hooks: ImportHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("tbx_zipped.py", "import tbx_zipped_too\n")
        archive.writestr("tbx_zipped_too.py", "")
    monkeypatch.syspath_prepend(tmp_path / "code.zip")
    seen: list[str] = []
    hooks.after_import("tbx_zipped", lambda module: seen.append(module.__name__))
    module = importlib.import_module("tbx_zipped")
    assert seen == ["tbx_zipped"]
    assert "exec_module" not in vars(module.__loader__)
    for name in ("tbx_zipped", "tbx_zipped_too"):
        monkeypatch.delitem(sys.modules, name)


def test_missing_module_stays_missing(hooks: ImportHooks) -> None:
    hooks.after_import("tbx_nowhere", pytest.fail)
    assert importlib.util.find_spec("tbx_nowhere") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("tbx_nowhere")
