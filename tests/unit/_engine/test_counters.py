"""Tests counters of micro-batches: losses, samples, tokens and predictions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop
from tbx_callbacks._engine.counters import Counters, Stopwatch
from tests.helpers.runs import Run

SET = {
    "every": "log",
    "metrics": ["loss", "nonfinite", "throughput", "outputs", "train_accuracy", {"weight_norm": {"by": "total"}}],
}
PASSES = 40  # more than one sum takes at once


class Overwritten(torch.Tensor):
    """A loss that can no longer be read, like an output of a CUDA graph after its next run."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.clone:
            raise RuntimeError("accessing tensor output of CUDAGraphs that has been overwritten")
        return super().__torch_function__(function, types, args, kwargs or {})


def train(folder: Path, loss_of: Any, *, strict: bool = False, **outputs: Tensor) -> Run:
    """Trains a loop that logs once, after all passes."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, {**SET, "strict": strict}, log_dir=folder, log_every=PASSES) as loop:
        for number in range(PASSES):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            loss = loss_of(number)
            loop.end_step(loss=loss, samples=2, tokens=torch.ones(2, 3), outputs=outputs, labels=torch.zeros(2).long())
    return Run(folder)


def test_stopwatch_excludes_time_since_mark() -> None:
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    watch.resume()
    now[0] = 3.0
    watch.mark()
    now[0] = 10.0
    watch.start_waiting()
    watch.exclude()  # what began after the mark was no training
    assert (watch.seconds, watch.is_running) == (3.0, False)
    now[0] = 20.0
    watch.exclude()
    watch.mark()  # nothing is counted now
    watch.stop_waiting()
    assert (watch.seconds, watch.waits) == (3.0, 0)
    watch.resume()
    now[0] = 22.0
    assert watch.seconds == 5.0
    watch.exclude()  # the last mark is that of resume
    assert watch.seconds == 3.0


def test_counters_partly_counted_samples_unknown() -> None:
    counters = Counters(Stopwatch())
    start = counters.totals()
    counters.record_batch(loss=None, samples=4, tokens=torch.tensor(9))
    first, middle = counters.since(start)
    counters.record_batch(loss=None, samples=None, tokens=torch.ones(2, 3))
    counters.record_batch(loss=None, samples=4, tokens=torch.tensor(1))
    second, _ = counters.since(middle)
    assert (first.samples, first.tokens, first.incomplete) == (4, 9, frozenset())
    assert (second.samples, second.tokens, second.incomplete) == (None, 7, {"samples"})


def test_counters_reused_loss_memory_changes_nothing(tmp_path: Path) -> None:
    loss, aux, logits = torch.zeros(()), torch.zeros(()), torch.zeros(2, 3)

    def next_one(number: int) -> Tensor:
        return loss.fill_(math.nan if number == 7 else 3.0)

    run = train(tmp_path / "nan", next_one, logits=logits, aux_loss=aux)
    assert run.scalars["nonfinite/losses"] == [(PASSES, 1.0)]
    run = train(tmp_path / "mean", lambda number: loss.fill_(number), logits=logits, aux_loss=aux)
    assert run.scalars["train/loss"] == [(PASSES, (PASSES - 1) / 2)]


def test_counters_unreadable_loss_training_continues(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def next_one(number: int) -> Tensor:
        loss = torch.tensor(1.0)
        return loss.as_subclass(Overwritten) if number == 7 else loss

    run = train(tmp_path / "run", next_one)
    assert caplog.text.count("counting micro-batches failed at step 8; the affected values are not written") == 1
    assert [step for step, _ in run.scalars["weight_norm/total"]] == [PASSES]
    assert [step for step, _ in run.scalars["perf/step_s"]] == [PASSES]
    assert [step for step, _ in run.scalars["nonfinite/gradients/total"]] == [PASSES]
    for tag in ("nonfinite/losses", "train/loss", "perf/samples_per_s", "perf/tokens_per_s"):
        assert tag not in run.scalars, tag  # they would count some micro-batches only
    with pytest.raises(RuntimeError, match="overwritten"):
        train(tmp_path / "strict", next_one, strict=True)
