"""Tests the settings of trainers whose code does not mention the package."""

from __future__ import annotations

import pytest

from tbx_callbacks.autolog.settings import CONFIG, LOG_DIR, Settings, activate, active, deactivate


@pytest.mark.parametrize("value", [None, ""])
def test_environment_without_a_set_gives_none(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv(CONFIG, value)
    monkeypatch.setenv(LOG_DIR, "runs")
    assert Settings.from_environment() is None


def test_environment_gives_set_and_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG, "full")
    assert Settings.from_environment() == Settings("full", None)
    monkeypatch.setenv(LOG_DIR, "runs/exp1")
    assert Settings.from_environment() == Settings("full", "runs/exp1")


def test_deactivate_replaced_settings_changes_nothing() -> None:
    first, second = Settings("full"), Settings("minimal")
    activate(first)
    activate(second)
    deactivate(first)
    assert active() is second
    deactivate(second)
    assert active() is None
