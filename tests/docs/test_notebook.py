"""Runs the notebook of the docs in a real kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.limits import limit
from tests.helpers.runs import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # in the notebook client
def test_notebook_run_in_kernel_shows_figures(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # the committed notebook has no outputs
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    NotebookClient(notebook, timeout=int(limit(120)), resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kind = "application/vnd.plotly.v1+json"
    figures = [output.data[kind] for output in shown if kind in output.get("data", {})]
    assert [figure["layout"]["title"]["text"] for figure in figures] == ["Loss", "Gradient norm", "Weights"]
    assert (tmp_path / "report.html").is_file()
