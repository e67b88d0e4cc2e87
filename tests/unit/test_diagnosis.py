"""Tests the deprecated module `tbx_callbacks.diagnosis`."""

from __future__ import annotations

import importlib
import sys

import pytest

from tbx_callbacks import rules


def test_diagnosis_import_warns_and_diagnoses() -> None:
    sys.modules.pop("tbx_callbacks.diagnosis", None)
    with pytest.warns(DeprecationWarning, match=r"import from tbx_callbacks\.rules instead"):
        diagnosis = importlib.import_module("tbx_callbacks.diagnosis")
    # The names of version 0.1 only: a name that `rules` got later has no old import to keep.
    assert set(diagnosis.__all__) <= set(rules.__all__)
    assert {"diagnose", "RULES", "Finding", "Rule", "default_rules"} <= set(diagnosis.__all__)
    assert all(getattr(diagnosis, name) is getattr(rules, name) for name in diagnosis.__all__)
