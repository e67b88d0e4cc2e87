"""Tests that an import of the package loads no trainer."""

from __future__ import annotations

import pytest

from tests.helpers.processes import modules_loaded_by


def test_core_import_loads_torch_and_no_trainer() -> None:
    code = "from tbx_callbacks import load_config; load_config('full')"
    engine = "import tbx_callbacks._engine.engine, tbx_callbacks.metrics.registry, tbx_callbacks.writers.base"
    assert modules_loaded_by(f"{code}\n{engine}") == {"torch"}


def test_readers_import_loads_no_torch() -> None:
    assert modules_loaded_by("import tbx_callbacks\nimport tbx_callbacks.cli, tbx_callbacks.report") == set()


def test_package_unknown_attribute_lists_known_ones() -> None:
    import tbx_callbacks

    with pytest.raises(AttributeError, match="TbxTrainerCallback"):
        _ = tbx_callbacks.TbxCallback
    assert set(tbx_callbacks.__all__) <= set(dir(tbx_callbacks))
