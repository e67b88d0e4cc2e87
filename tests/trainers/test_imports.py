"""Tests that lazy attributes of the package load their trainer on lookup."""

from __future__ import annotations

import pytest

from tests.helpers.processes import modules_loaded_by


@pytest.mark.slow
def test_trainer_callback_lookup_loads_torch_and_transformers() -> None:
    assert {"torch", "transformers"} <= modules_loaded_by("from tbx_callbacks import TbxTrainerCallback")
