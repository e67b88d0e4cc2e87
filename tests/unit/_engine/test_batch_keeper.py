"""Tests which steps are bad, and that only their micro-batches are passed on."""

from __future__ import annotations

import gc
import math
import statistics
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks._engine.batch_keeper import BadStep, BatchKeeper
from tbx_callbacks._model.rows import unread_rows


def keeper(spike: float | None = 6.0) -> tuple[BatchKeeper, list[BadStep]]:
    bad: list[BadStep] = []
    made = BatchKeeper(bad.append, spike)
    return made, bad


def train(made: BatchKeeper, losses: list[list[float]], *, start: int = 1) -> None:
    """Steps with these losses of micro-batches."""
    for step, own in enumerate(losses, start):
        made.begin_step(step)
        for loss in own:
            made.add_rows(unread_rows({"idx": torch.tensor([step])}, None, 1))
            made.end_batch(torch.tensor(loss))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_keeper_loss_not_finite_is_bad(loss: float) -> None:
    made, bad = keeper()
    train(made, [[1.0, 2.0], [1.0, loss, 3.0], [1.0]])
    made.close()
    (step,) = bad
    assert step.step == 2
    assert step.reasons == [f"the loss of micro-batch 2 is {loss}"]
    assert [each.number for each in step.micro_batches] == [1, 2, 3]
    assert step.losses == pytest.approx([1.0, loss, 3.0], nan_ok=True)
    assert all(each.rows is not None for each in step.micro_batches)


def test_keeper_decides_when_next_step_begins() -> None:
    made, bad = keeper()
    train(made, [[math.nan]])
    assert not bad
    made.begin_step(2)
    assert [step.step for step in bad] == [1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spike", [3.0, 6.0, None])
def test_keeper_spikes_equal_definition(seed: int, spike: float | None) -> None:
    losses = np.random.default_rng(seed).lognormal(0, 0.8, 300).astype(np.float32).astype(float).tolist()
    made, bad = keeper(spike)
    train(made, [[loss, 0.5 * loss] for loss in losses])
    made.close()
    expected = []
    for index, loss in enumerate(losses):
        before = losses[max(0, index - 50) : index]
        if spike is not None and len(before) >= 20:
            middle = statistics.median(before)
            noise = 1.4826 * statistics.median([abs(each - middle) for each in before])
            if loss > middle + spike * max(noise, 0.05 * middle):
                expected.append(index + 1)
    assert [step.step for step in bad] == expected
    assert bool(expected) == (spike is not None)


def test_keeper_constant_loss_no_spike() -> None:
    made, bad = keeper()
    train(made, [[0.5]] * 40 + [[0.6]] + [[0.5]] * 40 + [[0.7]])
    made.close()
    assert [step.step for step in bad] == [82]
    assert bad[0].reasons == ["the loss of 0.7 is a spike: the median of 50 steps before is 0.5"]


def stepped(gradients: list[Tensor | None]) -> torch.optim.Optimizer:
    parameters = [nn.Parameter(torch.zeros_like(each) if each is not None else torch.zeros(2)) for each in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return torch.optim.SGD(parameters)


@pytest.mark.parametrize(
    ("gradients", "is_bad"),
    [
        ([torch.tensor([1.0, math.nan]), torch.ones(3)], True),
        ([torch.ones(3), torch.tensor([math.inf, 1.0]).bfloat16()], True),
        ([torch.tensor([1, complex(0, math.inf)])], True),
        ([torch.sparse_coo_tensor([[0, 2]], [1.0, math.nan], (4,), check_invariants=True)], True),
        ([torch.full((3,), 3e38), torch.full((2,), 3e38)], False),  # their norm would overflow
        ([torch.ones(3).half() * 6e4], False),
        ([torch.zeros(0), None], False),
    ],
)
def test_keeper_gradients_not_finite_are_bad(gradients: Any, is_bad: bool) -> None:
    made, bad = keeper()
    train(made, [[1.0]])
    made.after_step(stepped([torch.ones(2)]), None)
    made.after_step(stepped(gradients), None)
    train(made, [[1.0]], start=2)
    assert [list(step.reasons) for step in bad] == ([["gradients are not finite"]] if is_bad else [])


def test_keeper_step_skipped_by_loss_scale_not_bad() -> None:
    made, bad = keeper()
    for step, skipped in ((1, 1.0), (2, 0.0)):
        train(made, [[1.0]], start=step)
        made.after_step(stepped([torch.tensor([math.nan])]), torch.tensor(skipped))
    made.close()
    assert [step.step for step in bad] == [2]


def test_keeper_without_losses_or_gradients_silent() -> None:
    made, bad = keeper()
    for step in range(1, 5):
        made.begin_step(step)
        made.end_batch(None)
    made.close()
    assert not bad


def test_keeper_forgets_batches_of_fine_steps() -> None:
    made, _ = keeper()
    seen = []
    for step in range(1, 5):
        made.begin_step(step)
        tensor = torch.zeros(3)
        seen.append(weakref.ref(tensor))
        made.add_rows(unread_rows({"idx": tensor}, None, 3))
        made.end_batch(torch.tensor(1.0))
        del tensor
    gc.collect()
    assert [each() is not None for each in seen] == [False, False, False, True]


class Pending:
    """A copy to the host that a device has not finished."""

    is_ready = False

    def __init__(self, parts: Any) -> None:
        self._parts = parts

    def read(self) -> list[list[float]]:
        return [[float(part)] for part in self._parts]


def test_keeper_waiting_for_device_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbx_callbacks._engine.batch_keeper.HostCopy", Pending)
    made, bad = keeper()
    large = torch.zeros(1 << 21)  # 8 MiB
    for step in range(1, 101):
        made.begin_step(step)
        made.add_rows(unread_rows({"pixels": large}, None, 1))
        made.end_batch(torch.tensor(math.nan))
    assert not bad  # nothing waits
    made.close()
    assert [step.step for step in bad] == list(range(69, 101))
    kept = [step.micro_batches[0].rows is not None for step in bad]
    assert kept == [False] * 24 + [True] * 8


def test_keeper_many_micro_batches_last_ones_kept() -> None:
    made, bad = keeper()
    train(made, [[1.0] * 400 + [math.nan]])
    made.close()
    assert [each.number for each in bad[0].micro_batches] == list(range(146, 402))


@pytest.mark.parametrize(("change", "is_spike"), [(1e-9, False), (5e-7, False), (1e-6, True)])
@pytest.mark.parametrize("base", [0.0, 1e-10])
def test_keeper_spike_within_precision_ignored(base: float, change: float, is_spike: bool) -> None:
    made, bad = keeper()
    train(made, [[base]] * 40 + [[base + change]] + [[base]] * 3)
    made.close()
    assert [step.step for step in bad] == [41] * is_spike


def test_keeper_spike_of_doubles_finer() -> None:
    made, bad = keeper()
    for step in range(1, 42):
        made.begin_step(step)
        made.end_batch(torch.tensor(1e-9 if step == 41 else 1e-10, dtype=torch.float64))
    made.close()
    assert [step.step for step in bad] == [41]


@pytest.mark.parametrize(
    ("error", "outputs", "reasons"),
    [
        (ValueError(), torch.ones(2, 2), ["ValueError ended the training in micro-batch 2"]),
        (None, torch.tensor([[1.0, math.nan]]), ["the outputs of micro-batch 2 are not finite"]),
        (KeyboardInterrupt(), torch.ones(2, 2), []),
        (None, torch.ones(2, dtype=torch.long), []),
        (None, None, []),
    ],
)
def test_keeper_interrupted_micro_batch_judged(error: Any, outputs: Any, reasons: list[str]) -> None:
    made, bad = keeper()
    train(made, [[1.0], [1.0]])
    made.add_rows(unread_rows({"idx": torch.tensor([7])}, None, 1))
    made.add_pass(None, outputs)
    made.interrupt(error, lambda *_: None)
    made.close()
    assert [(step.step, list(step.reasons)) for step in bad] == ([(2, reasons)] if reasons else [])


def test_keeper_error_between_micro_batches_ignored() -> None:
    made, bad = keeper()
    train(made, [[1.0], [1.0]])
    made.interrupt(ValueError(), lambda *_: None)
    made.close()
    assert not bad


def test_keeper_losses_of_others_not_judged() -> None:
    bad: list[BadStep] = []
    made = BatchKeeper(bad.append, 6.0, judges_losses=False)
    train(made, [[1.0]] * 30 + [[99.0], [math.nan]])
    made.close()
    assert not bad
