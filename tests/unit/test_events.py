"""Tests the deprecated module `tbx_callbacks.events`."""

from __future__ import annotations

import importlib
import sys

import pytest

from tbx_callbacks import runs


def test_events_import_warns_and_reads_runs() -> None:
    sys.modules.pop("tbx_callbacks.events", None)
    with pytest.warns(DeprecationWarning, match=r"import from tbx_callbacks\.runs instead"):
        events = importlib.import_module("tbx_callbacks.events")
    assert events.read_run is runs.read_run
    assert events.find_runs is runs.find_runs
    assert events.UnreadableError is runs.UnreadableError
