"""Tests the engine on a fake accelerator whose tensors have no elements to read."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils import backend_registration

from tests.helpers.processes import python
from tests.helpers.runs import ROOT


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot register a fake device",
)
def test_engine_on_fake_accelerator_no_host_sync(tmp_path: Path) -> None:
    script = ROOT / "tests" / "helpers" / "fake_accelerator.py"
    ended = python(script, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    printed = dict(line.split(" ", 1) for line in ended.stdout.splitlines() if " " in line)
    data_dependent = "DataDependentOutputException"
    assert printed["raises"].split()[:2] == [data_dependent, data_dependent]  # proves that the check can fail
    assert "nothing" not in printed["raises"].split()
    assert printed["merged"] == "1 accel"
    assert printed["changed"] == "cpu"
    tags = printed["tags"].split()
    for tag in ("grad_norm/body.1", "weights/embed", "grads/head", "updates/body.0", "optimizer_state/exp_avg/head"):
        assert tag in tags
    for tag in (
        "activations/body.0/norm",
        "nonfinite/first_bad",
        "train/accuracy",
        "update_ratio/embed",
        "clip/factor",
        "mine/loss",
        "examples/loss/0",
        "bad_batches/steps",
        "drift/head",
        "moved_share/embed",
        "gradient_noise/scale",
        "padding/savable",
        "time/backward_s",
    ):
        assert tag in tags
