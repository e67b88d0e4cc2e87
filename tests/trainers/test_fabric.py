"""Tests the Fabric example of docs/ with the real Lightning Fabric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.fabric import Fabric

from tests.helpers.runs import ROOT, Run, files, module_at

EXAMPLE = ROOT / "docs" / "fabric_example.py"
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests


def test_fabric_example_resumes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    clip_gradients = Fabric.clip_gradients

    def recorded(*args: Any, **kwargs: Any) -> Any:
        norm = clip_gradients(*args, **kwargs)
        assert norm is not None
        norms.append(float(norm))
        return norm

    monkeypatch.setattr(Fabric, "clip_gradients", recorded)
    example = module_at(EXAMPLE)
    example.train(tmp_path, 25, save_every=20)
    del norms[20:]  # the steps after the checkpoint are trained again
    example.train(tmp_path, 40, resume=True, save_every=20)
    read = Run(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run"]
    assert len(files(tmp_path / "run")) == 2
    assert read.steps("train/loss") == [10, 20, 30, 40]
    assert len(norms) == 40
    expected = dict(enumerate(norms, 1))
    for step in (10, 20, 30, 40):
        assert read.at("grad_norm/total")[step] == pytest.approx(expected[step], rel=1e-5)
        limit = min(1.0, example.MAX_NORM / expected[step])
        assert read.at("clip/factor")[step] == pytest.approx(limit, rel=1e-4)
    assert "lr/AdamW/pg1" in read.scalars  # not the class of Fabric's wrapper
    assert read.family("grad_norm") == {"total", "0", "2"}
