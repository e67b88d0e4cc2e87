"""Runs the loops of the README as they are printed there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import ROOT, Run

README = ROOT / "README.md"


@pytest.mark.parametrize("folder", ["runs/exp1", "runs/tutorial"])
def test_readme_loop_runs_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    from tbx_callbacks import TbxLoop

    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "with TbxLoop" in block and folder in block]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    names = {
        "TbxLoop": TbxLoop,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "criterion": torch.nn.CrossEntropyLoss(),
        "batches": [(torch.randn(5, 4), torch.randint(3, (5,))) for _ in range(10)],
        "accuracy": 0.5,
    }
    exec(textwrap.dedent(code), names)
    read = Run(tmp_path / folder)
    if folder == "runs/tutorial":
        assert len(re.findall(r"# [123]", code)) == 3
        assert read.steps("Loss/train") == list(range(20))
        assert read.steps("train/loss") == list(range(10, 201, 10))
    else:
        assert read.steps("train/loss") == read.steps("eval/accuracy") == [10]
    assert read.steps("grad_norm/total")
