"""Tests the entry point that Lightning calls, without Lightning."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks.autolog.lightning import GROUPS, callbacks, is_installed
from tests.helpers.processes import modules_loaded_by
from tests.helpers.runs import ROOT
from tests.helpers.scripts import install_entry_points


def test_callbacks_without_settings_load_nothing() -> None:
    assert callbacks() == []
    code = "from tbx_callbacks.autolog.lightning import callbacks; assert callbacks() == []"
    loaded = "import sys; assert not {'numpy', 'pydantic', 'yaml', 'tensorboardX'} & set(sys.modules)"
    assert modules_loaded_by(f"{code}\n{loaded}") == set()


def test_package_declares_its_entry_points() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for group in GROUPS.values():
        assert f'[project.entry-points."{group}"]\ntbx_callbacks = "{callbacks.__module__}:callbacks"\n' in text


def test_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_entry_points(tmp_path, monkeypatch)
    assert is_installed()
