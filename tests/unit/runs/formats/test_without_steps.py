"""Tests that a log without steps is named, with the fields that it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks.runs.reader import UnreadableError, find_runs, read_run


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.csv", "time,loss\n1,0.5\n", "a column step or epoch, but .* has only 'time', 'loss'; log"),
        ("metrics.jsonl", '{"loss": 0.5, "name": "a"}\n', "a field step or epoch, but .* has only 'loss', 'name'; log"),
    ],
)
def test_without_steps_fields_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    assert find_runs(tmp_path) == {".": str(file)}
    for path in (tmp_path, file):
        with pytest.raises(UnreadableError, match=words):
            read_run(path)


def test_without_steps_replaces_no_other_log(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("time,loss\n1,0.5\n")
    (tmp_path / "trainer_state.json").write_text('{"log_history": [{"step": 1, "loss": 0.5}]}')
    assert read_run(tmp_path).source == "trainer_state.json"


@pytest.mark.parametrize(
    ("name", "content"), [("metrics.csv", ""), ("metrics.jsonl", '{"name": "a"}\n'), ("rows.jsonl", '{"loss": 0.5}\n')]
)
def test_without_steps_other_files_no_run(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UnreadableError, match="there are none"):
        find_runs(tmp_path)
