"""Tests that clipping is noticed from a few gradients, in every step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tbx_callbacks import TbxLoop
from tbx_callbacks._engine.clip_probe import ClipProbe, count_changed
from tbx_callbacks._model.model_access import ModelAccess
from tests.helpers.runs import Run


def access(*gradients: float) -> ModelAccess:
    model = nn.ParameterList([torch.ones(3) for _ in gradients])
    for parameter, gradient in zip(model, gradients, strict=True):
        parameter.grad = torch.full((3,), gradient)
    return ModelAccess(model, {"SGD": torch.optim.SGD(model.parameters(), lr=0.1)})


@pytest.mark.parametrize(("max_norm", "expected"), [(100.0, 0), (0.1, 1)])
def test_clip_probe_clipped_gradients_flagged(max_norm: float, expected: int) -> None:
    probe, source = ClipProbe(), access(0.0, 1.0)
    probe.begin(source, None)
    assert probe.is_pending
    nn.utils.clip_grad_norm_([p.tensor for p in source.parameters], max_norm)
    norms = probe.end()
    assert (count_changed([norms]).item(), probe.is_pending) == (expected, False)


def test_count_changed_of_several_steps() -> None:
    same, changed = torch.tensor([1.0, 2.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 1.0, 1.5])
    other_sizes = [torch.tensor([3.0, 1.0]), torch.tensor([3.0, 3.0])]
    assert count_changed([same, changed, *other_sizes, changed, same]).item() == 3
    assert count_changed([torch.tensor([torch.nan, torch.nan])]).item() == 1  # not known to be the same


def test_clip_probe_unscaled_gradients_not_flagged() -> None:
    probe, source = ClipProbe(), access(1.0 * 2**16)
    probe.begin(source, torch.tensor(2.0**16))
    source.parameters[0].tensor.grad.div_(2**16)  # type: ignore[union-attr]
    assert count_changed([probe.end()]).item() == 0


def test_clip_probe_without_gradients_unknown() -> None:
    model = nn.Linear(2, 2)
    probe = ClipProbe()
    probe.begin(ModelAccess(model, {"SGD": torch.optim.SGD(model.parameters(), lr=0.1)}), None)
    assert not probe.is_pending


@pytest.mark.parametrize("every", [1, 4])
def test_loop_clip_share_counts_every_step(tmp_path: Path, every: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    clipped = []
    with TbxLoop(model, optimizer, {"every": every, "metrics": ["clip"]}, log_dir=tmp_path, max_grad_norm=1.0) as loop:
        for step in range(1, 9):
            optimizer.zero_grad()
            (model(torch.ones(1, 4)).sum() * (10.0 if step in (2, 3, 7) else 0.01)).backward()
            loop.before_clip()
            clipped.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)) > 1.0)
            optimizer.step()
            loop.end_step()
    assert clipped == [False, True, True, False, False, False, True, False]
    expected = [(step, sum(clipped[step - every : step]) / every) for step in range(every, 9, every)]
    assert Run(tmp_path).scalars["clip/share"] == expected


def test_loop_separate_clipping_factor_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    optimizers = {name: torch.optim.SGD(model[name].parameters(), lr=0.1) for name in model}
    config = {"every": 1, "strict": True, "metrics": ["clip", {"grad_norm": {"by": "total"}}]}
    with TbxLoop(model, optimizers, config, log_dir=tmp_path, max_grad_norm=0.1) as loop:
        for _ in range(2):
            for name, optimizer in optimizers.items():
                model.zero_grad()
                model["b"](model["a"](torch.ones(1, 2))).sum().backward()
                loop.before_clip(optimizer=optimizer)
                nn.utils.clip_grad_norm_(model[name].parameters(), 0.1)
                optimizer.step()
            loop.end_step()
    run = Run(tmp_path)
    assert "clip/factor" not in run.scalars
    assert run.steps("grad_norm/a/total") == run.steps("grad_norm/b/total") == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "clip/factor is left out: several optimizers clip separately; compare grad_norm with grad_norm_clipped"
    ]
