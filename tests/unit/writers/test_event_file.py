"""Tests names of event files."""

from __future__ import annotations

from pathlib import Path

from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.runs import Run, files


def test_event_files_of_writers_in_folder_differ(tmp_path: Path) -> None:
    writers = [TensorBoardWriter(tmp_path) for _ in range(5)]
    for index, writer in enumerate(writers):
        writer.write(1, {f"writer{index}": 1.0})
    for writer in writers:
        writer.close()
    assert len(files(tmp_path)) == 5
    assert set(Run(tmp_path).scalars) == {f"writer{index}" for index in range(5)}
