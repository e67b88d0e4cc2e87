"""Tests on CUDA that the training thread never waits, for each kind of training with values on the device."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tbx_callbacks._engine.cost import DeviceTime, device_marker
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.step_recorder import StepRecorder
from tbx_callbacks._stats import fused_moments as fused
from tbx_callbacks._stats import histogram, histogram_device
from tbx_callbacks._stats.flat import flat
from tests.helpers.data import collate, rows
from tests.helpers.gpu import FULL, TYPES, no_waiting, tensors
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none here"),
]
BUSY = 2_000_000_000  # cycles, about a second


@pytest.mark.parametrize("dtype", TYPES)
def test_kernels_on_cuda_match_operators_and_cpu(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    here = [flat(tensor) for tensor in tensors(dtype) if tensor.numel()]
    there = [[tensor.cuda()] for tensor in here]
    assert all(fused.supports(row) for row in there)
    ranges = fused.bounds(there)
    wanted = histogram.value_ranges([[tensor] for tensor in here])
    assert torch.equal(torch.stack(ranges).cpu(), torch.stack(wanted))
    assert torch.equal(torch.stack(ranges), torch.stack(histogram_device.bounds(there)))
    with no_waiting():
        ours, operators = (variant.count(there, ranges, [64] * len(there)) for variant in (fused, histogram_device))
    cpu = histogram.count([[tensor] for tensor in here], wanted, [64] * len(here))
    for found, *others in zip(ours, operators, cpu, strict=True):
        for other in others:
            assert found[4:].sum().item() == other[4:].sum().item()
            assert found[2].item() == pytest.approx(other[2].item(), rel=1e-4, abs=1e-2)
            assert found[3].item() == pytest.approx(other[3].item(), rel=1e-5)
            moved = (found[4:].cpu() - other[4:].cpu()).abs().sum().item()
            assert moved <= (4 if dtype == torch.float32 else 0.05 * other[4:].sum().item())


def train(folder: Path, *, sparse: bool = False, scaled: bool = False, **config: Any) -> Run:
    """Trains six steps, if possible with the learning rate on the device. Only a sparse optimizer may wait."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8, sparse=sparse), nn.Linear(8, 3)).cuda()
    groups = list(model[0].parameters() if sparse else model.parameters())
    optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=0.1)
    if not sparse:
        rate = torch.tensor(1e-3, device="cuda")
        optimizer = torch.optim.AdamW(groups, lr=rate, capturable=not scaled, fused=scaled)
    scaler = torch.amp.GradScaler("cuda", enabled=scaled)
    ids, labels = torch.arange(8, device="cuda"), torch.zeros(8, dtype=torch.int64, device="cuda")
    with TbxLoop(model, optimizer, {**FULL, **config}, log_dir=folder, log_every=1, scaler=scaler) as loop:
        for _ in range(6):
            logits = model(ids)
            loss = nn.functional.cross_entropy(logits, labels)
            scaler.scale(loss).backward()
            torch.cuda.set_sync_debug_mode("default" if sparse else "error")
            try:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                loop.end_step(loss=loss, samples=8, outputs=logits, labels=labels)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return Run(folder)


def test_learning_rate_on_device_no_host_sync(tmp_path: Path) -> None:
    run = train(tmp_path)
    assert [value for _, value in run.scalars["train/learning_rate"]] == pytest.approx([1e-3] * 6)


def test_fused_optimizer_with_loss_scale_no_host_sync(tmp_path: Path) -> None:
    assert train(tmp_path, scaled=True).steps("amp/scale") == [1, 2, 3, 4, 5, 6]


def test_initial_weights_from_file_no_host_sync(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)).cuda().bfloat16()
    start = [parameter.detach().double().cpu() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.ones(4, 64, device="cuda", dtype=torch.bfloat16)
    config = {"every": 2, "strict": True, "metrics": ["drift", {"drift": {"by": "total"}}]}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=2) as loop:
        for step in range(1, 5):
            model(x).square().mean().backward()
            torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")  # kept before the first step
            try:
                optimizer.step()
                optimizer.zero_grad()
                loop.end_step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
    now = [parameter.detach().double().cpu() for parameter in model.parameters()]
    squares = sum(float((a - b).square().sum()) for a, b in zip(now, start, strict=True))
    drift = (squares / sum(float(tensor.square().sum()) for tensor in start)) ** 0.5
    assert Run(tmp_path).at("drift/total")[4] == pytest.approx(drift, rel=1e-5)


def test_overhead_budget_no_host_sync(tmp_path: Path) -> None:
    assert "overhead_budget" in train(tmp_path, overhead_budget=1e-6).texts


def test_sparse_gradients_on_cuda_written(tmp_path: Path) -> None:
    assert train(tmp_path, sparse=True, strict=False).steps("grad_norm/0") == [1, 2, 3, 4, 5, 6]


def test_stop_with_device_behind_no_host_sync(tmp_path: Path) -> None:
    model = nn.Linear(4, 4).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {"every": 1, "metrics": ["loss", "nonfinite"], "rules": {"nonfinite": "stop"}}
    x = torch.ones(2, 4, device="cuda")
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=1) as loop:

        def step(factor: float) -> None:
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=model(x).sum().detach() * factor)

        step(1.0)
        torch.cuda.synchronize()
        torch.cuda._sleep(BUSY)
        busy, started = torch.cuda.Event(), time.perf_counter()
        busy.record()
        for _ in range(4):
            step(float("nan"))
        assert not busy.query(), f"the device was waited for, {time.perf_counter() - started:.2f} s"
        assert not loop.should_stop
        torch.cuda.synchronize()
        assert loop._session._engine.publisher._queue.drain(30)
        end = time.monotonic() + 30
        while not loop.should_stop and time.monotonic() < end:
            step(float("nan"))
        assert loop.should_stop


def test_device_time_counts_as_overhead() -> None:
    stopwatch = Stopwatch()
    timed = DeviceTime(stopwatch, device_marker(torch.device("cuda", 0)))
    with timed.span(1, []):
        torch.cuda._sleep(BUSY // 10)
    torch.cuda.synchronize()
    with timed.span(1, []):
        pass
    assert 0.02 < stopwatch.monitoring < 5


@pytest.fixture
def callback_may_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a call of the callback waits for the device; the trainers themselves may wait."""
    calls = [
        (Engine, name)
        for name in (
            "record_batch",
            "record_outputs",
            "before_clip",
            "record_clipping",
            "flush_step",
            "record_logs",
            "poll_actions",
        )
    ]
    for owner, name in [*calls, (StepRecorder, "_before_step"), (StepRecorder, "_after_step")]:
        method = getattr(owner, name)

        def guarded(*args: Any, method: Any = method, **kwargs: Any) -> Any:
            with no_waiting():
                return method(*args, **kwargs)

        monkeypatch.setattr(owner, name, functools.wraps(method)(guarded))


@pytest.mark.usefixtures("callback_may_not_wait")
def test_huggingface_trainer_no_host_sync(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(FULL, log_dir=tmp_path / "run")
    run = trainer(tmp_path, callbacks=[callback], max_steps=4, logging_steps=1, use_cpu=False)
    callback.attach(run)
    run.train()
    assert run.model.device.type == "cuda"
    assert Run(callback.log_dir).steps("perf/step_s")[-1] == 4


@pytest.mark.usefixtures("callback_may_not_wait")
@pytest.mark.filterwarnings("ignore")  # no workers, no logger
def test_lightning_trainer_no_host_sync(tmp_path: Path) -> None:
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = bert()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            loss: Tensor = self.net(**batch).loss
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=torch.tensor(1e-3, device="cuda"), capturable=True)

    callback = TbxLightningCallback(FULL, log_dir=tmp_path / "run")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    run = pl.Trainer(accelerator="gpu", devices=1, max_steps=4, log_every_n_steps=1, callbacks=[callback], **quiet)
    run.fit(Module(), DataLoader(rows(64), batch_size=4, collate_fn=collate))
    assert Run(callback.log_dir).steps("train/learning_rate") == [1, 2, 3, 4]
