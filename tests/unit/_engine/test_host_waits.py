"""Tests that the training thread never waits for a device."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks import TbxLoop
from tbx_callbacks._stats.host_copy import HostCopy
from tests.helpers.runs import Run


def slow_device(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A device that computes nothing until the event is set; a read on the training thread fails."""
    done, main, read = threading.Event(), threading.current_thread(), HostCopy.read

    def read_when_done(self: HostCopy) -> Any:
        if self._parts:
            assert threading.current_thread() is not main, "the training thread waits for the device"
            assert done.wait(5)
        return read(self)

    monkeypatch.setattr(HostCopy, "read", read_when_done)
    monkeypatch.setattr(HostCopy, "is_pending", property(lambda self: bool(self._parts)))
    return done


def test_learning_rate_on_device_read_on_other_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = slow_device(monkeypatch)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.5))  # stands for a learning rate on the device
    config = {"every": "log", "strict": True, "metrics": ["loss", {"grad_norm": {"by": "total"}}]}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=2) as loop:
        for _ in range(4):
            loss = model(torch.ones(1, 2)).sum()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                optimizer.param_groups[0]["lr"].mul_(0.5)
            loop.end_step(loss=loss)
        loop.evaluate(accuracy=torch.tensor(0.5))
        done.set()
    run = Run(tmp_path)
    assert run.scalars["train/learning_rate"] == [(2, 0.25), (4, 0.0625)]
    assert run.steps("grad_norm/total") == run.steps("train/loss") == [2, 4]
    assert run.scalars["eval/accuracy"] == [(4, 0.5)]


@pytest.mark.parametrize(("before_clip", "times"), [(False, 1), (True, 2)])
def test_sparse_gradients_coalesced_once_per_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_clip: bool, times: int
) -> None:
    model = nn.Embedding(20, 4, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made, coalesce = [], torch.Tensor.coalesce
    monkeypatch.setattr(torch.Tensor, "coalesce", lambda tensor: (made.append(1), coalesce(tensor))[1])
    limit = 1e9 if before_clip else None
    metrics = [
        {"grad_norm": {"by": "total"}},
        {"grad_norm_clipped": {"by": "layer"}},
        "nonfinite",
        "grad_histogram",
        "clip",
    ]
    config = {"every": 1, "strict": True, "metrics": metrics}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=1, max_grad_norm=limit) as loop:
        ids = torch.tensor([3, 3, 5])
        model(ids).sum().backward()
        if before_clip:
            loop.before_clip()
        optimizer.step()
        loop.end_step()
    run = Run(tmp_path)
    assert run.scalars["grad_norm/total"][0][1] == pytest.approx((4 * (2**2 + 1)) ** 0.5)
    assert run.histograms
    assert len(made) == times


def test_loop_step_in_progress_frees_gradients(tmp_path: Path) -> None:
    model = nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    names = ["nonfinite", "throughput", "optimizer_state", "grad_histogram", "update_norm", "train_accuracy"]
    config = {"every": 1, "strict": True, "metrics": names}
    old = None
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=1) as loop:
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(torch.ones(2, 8)).square().sum()
            assert old is None or old() is None
            loss.backward()
            assert model.weight.grad is not None
            model.weight.grad[0, 0] = float("nan")
            old = weakref.ref(model.weight.grad)
            optimizer.step()
            loop.end_step()
    assert loop.step == 4
    run = Run(tmp_path)
    assert run.scalars["nonfinite/gradients/total"][0] == (1, 1.0)
    assert run.steps("nonfinite/gradients/total") == run.steps("perf/step_s") == [1, 2, 3, 4]


def wait_until(reached: Callable[[], object]) -> bool:
    """Waits until a condition holds; returns False after 30 seconds."""
    end = time.monotonic() + 30
    while not reached() and time.monotonic() < end:
        time.sleep(0.001)
    return bool(reached())


@pytest.mark.parametrize("rule", [{"nonfinite": "stop"}, {"nonfinite": ["stop", "checkpoint"]}])
def test_stop_acted_upon_after_host_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any]) -> None:
    done = slow_device(monkeypatch)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {"every": 1, "metrics": ["loss", "nonfinite"], "rules": rule}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=1) as loop:

        def step(factor: float = 1.0) -> None:
            loss = model(torch.ones(1, 2)).sum() * factor
            optimizer.step()  # without a gradient: weights stay finite
            loop.end_step(loss=loss.detach())

        for number in range(1, 9):
            step(float("nan") if number >= 2 else 1.0)
            assert not loop.should_stop
        done.set()
        assert wait_until(lambda: loop._session._engine.publisher.decisions.pending)
        step()
        assert loop.should_stop
        assert loop.should_checkpoint is ("checkpoint" in rule["nonfinite"])
        step()
        assert loop.should_stop
        assert not loop.should_checkpoint
    assert Run(tmp_path).texts["alerts/nonfinite"][-1].startswith("**error: nonfinite** (TBX-NUM-001), found at step 4")


def test_budget_applied_without_host_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = slow_device(monkeypatch)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {"every": 1, "metrics": [{"grad_norm": {"by": "total"}}], "overhead_budget": 0.0001}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=1) as loop:
        for _ in range(8):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            loop.end_step()
        (entry,) = loop._session._engine._runner.step_runs
        assert str(entry.schedule) != "every 1 steps"
        done.set()
    assert list(Run(tmp_path).texts) == ["overhead_budget"]


def test_publishing_error_leaves_no_pending_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {"every": 1, "metrics": [{"grad_norm": {"by": "total"}}], "rules": {"nonfinite": "stop"}}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=10) as loop, monkeypatch.context() as broken:
        broken.setattr(HostCopy, "read", lambda self: 1 / 0)
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            loop.end_step()
        assert not loop._session._engine.publisher.decisions.pending
