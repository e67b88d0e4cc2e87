"""Tests that clipping is noticed from a few gradients, in every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        "clip/factor is left out: parts of the gradients are clipped separately; compare grad_norm with"
        " grad_norm_clipped"
    ]


CLIP_AND_NORMS = {
    "every": 1,
    "strict": True,
    "metrics": ["clip", {"grad_norm": {"by": "total"}}, {"grad_norm_clipped": {"by": "total"}}],
}


def two_layers() -> nn.ModuleDict:
    """An embedding whose gradients are large, and a head."""
    torch.manual_seed(0)
    return nn.ModuleDict({"embedding": nn.Embedding(10, 4), "head": nn.Linear(4, 1)})


def clipped_loop(
    folder: Path,
    clip: Callable[[nn.ModuleDict], object],
    *,
    kinds: tuple[str, ...] = ("all",),
    named: tuple[str, ...] = (),
    options: Any = None,
) -> Run:
    """Three steps of a loop that clips in its own way; `named` are the optimizers for which `before_clip` is called."""
    model = two_layers()
    parts = {"all": model, "embedding": model["embedding"], "head": model["head"]}
    optimizers = {kind: torch.optim.SGD(parts[kind].parameters(), lr=1e-3) for kind in kinds}
    with TbxLoop(model, optimizers, CLIP_AND_NORMS, log_dir=folder, **(options or {"max_grad_norm": 2.0})) as loop:
        for _ in range(3):
            model.zero_grad()
            (16 * model["head"](10 * model["embedding"](torch.arange(10))).sum()).backward()
            for name in named or (None,):
                loop.before_clip(optimizer=None if name is None else optimizers[name])
            clip(model)
            for optimizer in optimizers.values():
                optimizer.step()
            loop.end_step()
    return Run(folder)


DISAGREES = (
    "clip/share is left out, and clip/factor at steps with several: clipping was not by max_grad_norm over all"
    " gradients; compare grad_norm with grad_norm_clipped"
)


def clip_head(model: nn.ModuleDict) -> None:
    nn.utils.clip_grad_norm_(model["head"].parameters(), 2.0)


def clip_parts(model: nn.ModuleDict) -> None:
    nn.utils.clip_grad_norm_(model["embedding"].parameters(), 2.0)
    nn.utils.clip_grad_norm_(model["head"].parameters(), 2.0)


def clip_values(model: nn.ModuleDict) -> None:
    nn.utils.clip_grad_value_(model.parameters(), 0.5)


@pytest.mark.parametrize("kinds", [("all",), ("embedding", "head")])
@pytest.mark.parametrize("clip", [clip_head, clip_parts, clip_values])
def test_loop_partial_clipping_factor_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clip: Callable[[nn.ModuleDict], object], kinds: tuple[str, ...]
) -> None:
    run = clipped_loop(tmp_path, clip, kinds=kinds)
    assert not {"clip/factor", "clip/share"} & set(run.scalars)
    assert [record.getMessage() for record in caplog.records] == [DISAGREES]


def test_loop_other_limit_factor_measured(tmp_path: Path) -> None:
    norms: list[float] = []

    def clip(model: nn.ModuleDict) -> None:
        gradients = [parameter.grad.double().flatten() for parameter in model.parameters()]
        norms.append(float(torch.cat(gradients).norm()))
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)

    run = clipped_loop(tmp_path, clip)
    expected = {step: pytest.approx(0.5 / norm, rel=1e-5) for step, norm in enumerate(norms, 1)}
    assert run.at("clip/factor") == expected


def test_loop_clips_nothing_factor_is_one(tmp_path: Path) -> None:
    assert clipped_loop(tmp_path, lambda model: None).at("clip/factor") == {1: 1.0, 2: 1.0, 3: 1.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loop_all_gradients_clipped_factor_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 1)).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    factors = []
    with TbxLoop(model, optimizer, CLIP_AND_NORMS, log_dir=tmp_path, max_grad_norm=2.0) as loop:
        for size in (8, 16, 32):
            optimizer.zero_grad()
            (model(torch.randn(size, 8, dtype=dtype)).sum() * 7).backward()
            before = torch.cat([parameter.grad.double().flatten() for parameter in model.parameters()])
            loop.before_clip()
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            after = torch.cat([parameter.grad.double().flatten() for parameter in model.parameters()])
            factors.append(float(after.norm() / before.norm()))
            optimizer.step()
            loop.end_step()
    run = Run(tmp_path)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    assert run.at("clip/factor") == {s: pytest.approx(factor, rel=tolerance) for s, factor in enumerate(factors, 1)}
    assert run.at("clip/share") == {1: 1.0, 2: 1.0, 3: 1.0}
    assert not caplog.records


def test_loop_one_optimizer_named_warning_names_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = clipped_loop(tmp_path, clip_head, kinds=("embedding", "head"), named=("head",))
    assert run.steps("grad_norm/head/total") == [1, 2, 3]
    assert "grad_norm/embedding/total" not in run.scalars
    assert [record.getMessage() for record in caplog.records] == [
        "clip/factor is left out: parts of the gradients are clipped separately; compare grad_norm with"
        " grad_norm_clipped",
        "grad_norm of embedding: left out before clipping, because before_clip names only head; call it for each"
        " optimizer, or without optimizer= for all",
    ]
