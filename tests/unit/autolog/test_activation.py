"""Tests `init` without a trainer: its arguments, and the settings that it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

import tbx_callbacks
from tbx_callbacks.autolog.settings import active


def test_init_twice_is_one_activation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with tbx_callbacks.init("minimal", log_dir="runs/a") as first:
        settings = active()
        assert settings is not None
        assert first.log_dir == settings.log_dir == str(tmp_path / "runs" / "a")
        with tbx_callbacks.init("minimal", log_dir=tmp_path / "runs" / "a"):
            assert active() is settings
        assert active() is settings  # the first call's
    assert active() is None


def test_init_with_other_arguments_replaces_first() -> None:
    first = tbx_callbacks.init("minimal")
    with tbx_callbacks.init("full") as second:
        first.close()
        settings = active()
        assert settings is not None
        assert settings.config == second.config == tbx_callbacks.load_config("full")
    assert active() is None


def test_init_wrong_arguments_raise_at_once() -> None:
    with pytest.raises(tbx_callbacks.ConfigError, match="did you mean 'full'"):
        tbx_callbacks.init("ful")
    with pytest.raises(TypeError, match=r"logdir must be a known argument.*did you mean 'log_dir'"):
        tbx_callbacks.init(logdir="runs")  # type: ignore[call-arg]
    assert active() is None
