"""Tests that clipping is noticed from a few gradients, in every step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop
from tbx_callbacks._engine.clip_probe import ClipProbe, count_changed
from tbx_callbacks._model.model_access import ModelAccess
from tests.helpers.runs import Run


def access(*gradients: float, dtype: torch.dtype = torch.float32) -> ModelAccess:
    model = nn.ParameterList([torch.ones(3, dtype=dtype) for _ in gradients])
    for parameter, gradient in zip(model, gradients, strict=True):
        parameter.grad = torch.full((3,), gradient, dtype=dtype)
    return ModelAccess(model, {"SGD": torch.optim.SGD(model.parameters(), lr=0.1)})


def count(result: Tensor | bool) -> int:
    return int(count_changed([result]) if isinstance(result, Tensor) else result)


# The second gradient is read where the first, from which elements are compared, is zero; norms also serve other types.
@pytest.mark.parametrize("gradients", [(1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("max_norm", "expected"), [(100.0, 0), (0.1, 1)])
def test_clip_probe_clipped_gradients_flagged(
    gradients: tuple[float, ...], dtype: torch.dtype, max_norm: float, expected: int
) -> None:
    probe, source = ClipProbe(), access(*gradients, dtype=dtype)
    probe.begin(source, None)
    assert probe.is_pending
    nn.utils.clip_grad_norm_([p.tensor for p in source.parameters], max_norm)
    result = probe.end()
    assert isinstance(result, bool) is (gradients[0] > 0 and dtype in (torch.float32, torch.float64))
    assert (count(result), probe.is_pending) == (expected, False)


def test_clip_probe_slight_clipping_flagged() -> None:
    torch.manual_seed(0)
    probe, source = ClipProbe(), access(1.0)
    gradient = source.parameters[0].tensor.grad = torch.randn(3)
    probe.begin(source, None)
    nn.utils.clip_grad_norm_([source.parameters[0].tensor], gradient.norm().item() * (1 - 1e-6))
    assert count(probe.end()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0), (0.5, 1)])
def test_clip_probe_replaced_gradients_compared(dtype: torch.dtype, factor: float, expected: int) -> None:
    probe, source = ClipProbe(), access(1.0, 2.0, dtype=dtype)
    probe.begin(source, None)
    for parameter in source.parameters:
        parameter.tensor.grad = parameter.tensor.grad * factor
    assert count(probe.end()) == expected


def test_clip_probe_nan_gradients_flagged() -> None:
    probe, source = ClipProbe(), access(float("nan"))
    probe.begin(source, None)
    assert count(probe.end()) == 1  # not known to be the same


@pytest.mark.parametrize("has_graph", [False, True])
def test_clip_probe_other_gradients_each_step(has_graph: bool) -> None:
    probe, source = ClipProbe(), access(1.0)
    other = torch.ones(3, requires_grad=True) * 2 if has_graph else None
    for gradient in (torch.ones(3), other, torch.ones(3)):
        source.parameters[0].tensor.grad = gradient
        probe.begin(source, None)
        assert probe.is_pending is (gradient is not None)
        if probe.is_pending:
            assert count(probe.end()) == 0


def test_count_changed_of_several_steps() -> None:
    same, changed = torch.tensor([1.0, 2.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 1.0, 1.5])
    other_sizes = [torch.tensor([3.0, 1.0]), torch.tensor([3.0, 3.0])]
    assert count_changed([same, changed, *other_sizes, changed, same]).item() == 3
    assert count_changed([torch.tensor([torch.nan, torch.nan])]).item() == 1  # not known to be the same


def test_clip_probe_unscaled_gradients_not_flagged() -> None:
    probe, source = ClipProbe(), access(1.0 * 2**16)
    probe.begin(source, torch.tensor(2.0**16))
    source.parameters[0].tensor.grad.div_(2**16)  # type: ignore[union-attr]
    assert count(probe.end()) == 0


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
