"""Tests where the writers of a run are opened and closed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tbx_callbacks import load_config
from tbx_callbacks.integrations.run_output import RunOutput
from tbx_callbacks.writers import LogDirError
from tests.helpers.runs import Run

EVENTS_AND_MEMORY = {"metrics": ["loss"], "writers": ["tensorboard", "tbx_callbacks.writers.MemoryWriter"]}


def test_run_output_unknown_before_it_is_opened() -> None:
    output = RunOutput(load_config("minimal"))
    assert (output.is_known, output.log_dir, output.release()) == (False, None, True)
    output.close()
    output.forget()


def test_run_output_released_writes_again(tmp_path: Path) -> None:
    output, threads = RunOutput(load_config("minimal")), threading.active_count()
    writer = output.open(str(tmp_path))
    for step in range(1, 4):
        writer.write(step, {"a": float(step)})
        assert threading.active_count() > threads
        assert output.release()
        assert threading.active_count() == threads
    assert Run(tmp_path).at("a") == {1: 1.0, 2: 2.0, 3: 3.0}


def test_run_output_other_folder_closes_first(tmp_path: Path) -> None:
    output, threads = RunOutput(load_config("minimal")), threading.active_count()
    for name in ("a", "b"):
        writer = output.open(str(tmp_path / name))
        assert output.open(str(tmp_path / name)) is writer
        writer.write(1, {name: 1.0})
        assert output.log_dir == str(tmp_path / name)
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("tbx-event-writer") == 1
    output.forget()
    assert threading.active_count() == threads
    assert not output.is_known
    assert Run(tmp_path / "a").at("a") == Run(tmp_path / "b").at("b") == {1: 1.0}


def test_run_output_unwritable_folder_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = RunOutput(load_config("minimal"))
    with pytest.raises(LogDirError, match="there is a file where the folder should be"):
        output.open(str(tmp_path / "file"))
    assert not output.is_known


def test_run_output_further_writers_stay_open(tmp_path: Path) -> None:
    output, threads = RunOutput(load_config(EVENTS_AND_MEMORY)), threading.active_count()
    output.open(str(tmp_path)).write(1, {"a": 1.0})
    assert not output.release()
    output.close()
    assert output.release()
    assert threading.active_count() == threads
