"""Tests the message that says where the run is written; tests/trainers/test_notebook.py uses a real kernel."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tbx_callbacks import TbxLoop
from tbx_callbacks.integrations.notebook import QUIET, announce, in_notebook


def train(folder: Path, config: object = "minimal", *, times: int = 1) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(times):
        with TbxLoop(model, optimizer, config, log_dir=folder) as loop:  # type: ignore[arg-type]
            optimizer.step()
            loop.end_step(loss=1.0)


def test_announce_folder_and_command_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(QUIET)
    folder = tmp_path / "my runs"
    train(folder)
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"tbx_callbacks writes this run to {folder}; ")
    command = shlex.split(line.partition("view it with: ")[2])
    assert command == ["tensorboard", "--logdir", str(folder)]
    assert list(folder.glob("events.out.tfevents.*"))


@pytest.mark.parametrize(("name", "value"), [(QUIET, "1"), ("RANK", "1")])
def test_announce_switched_off_or_other_rank_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(QUIET, "0")
    monkeypatch.setenv(name, value)
    train(tmp_path)
    assert capsys.readouterr().err == ""


def test_announce_set_without_event_file_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(QUIET)
    train(tmp_path, {"metrics": ["loss"], "writers": ["tbx_callbacks.writers.MemoryWriter"]})
    assert capsys.readouterr().err == ""


def test_announce_closed_stderr_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(QUIET)
    with (tmp_path / "closed").open("w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    announce(str(tmp_path))
    monkeypatch.setattr(sys, "stderr", None)
    announce(str(tmp_path))
    assert not in_notebook()
