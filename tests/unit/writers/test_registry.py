"""Tests the lookup of writers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks._extensions import ExtensionError
from tbx_callbacks.writers.registry import WRITER_CLASSES
from tests.helpers.outside_package import install


def test_writer_class_mistake_names_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    assert WRITER_CLASSES.find("my_pkg.writers.Lines") is not None
    with pytest.raises(ExtensionError, match=r"it must define write\(step, values\), but Nothing does not; see Writer"):
        WRITER_CLASSES.find("my_pkg.writers.Nothing")
    with pytest.raises(ExtensionError, match="it must be a class, got function"):
        WRITER_CLASSES.find("my_pkg.cadences.even")
