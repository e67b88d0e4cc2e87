"""Tests the loop in a real notebook kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.limits import limit
from tests.helpers.runs import Run

CELL = """
import torch
from tbx_callbacks import TbxLoop

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with TbxLoop(model, optimizer, "minimal", log_dir="logs/<b>", log_every=2) as loop:
    for x in loop.track([torch.ones(1, 2)] * 6, "training"):
        loss = model(x).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loop.end_step(loss=loss, samples=1)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # in the notebook client
def test_notebook_loop_shows_link_and_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TBX_CALLBACKS_QUIET")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, timeout=int(limit(120)), resources={"metadata": {"path": str(tmp_path)}}).execute()
    (cell,) = notebook.cells
    shown = [output["data"] for output in cell.outputs if "data" in output]
    (link,) = [data["text/html"] for data in shown if "text/html" in data]
    assert '<a href="logs/&lt;b&gt;" target="_blank">' in link
    assert "%tensorboard --logdir logs</code>" in link
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)  # tqdm's bar for notebooks
    assert Run(tmp_path / "logs" / "<b>").steps("train/loss") == [2, 4, 6]


def test_terminal_loop_bar_shows_loss_without_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from tbx_callbacks import TbxLoop

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, "minimal", log_dir=tmp_path, log_every=2) as loop:
        for _ in loop.track(range(4)):
            optimizer.step()
            loop.end_step(loss=0.125)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "4/4" in printed.err
    assert "loss=0.125, step=4" in printed.err
