"""Tests that gradients which are not cleared between steps are noticed, and no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tbx_callbacks._wiring.kept_gradients import KeptGradients


def set_to_none(optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()


def zero(optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=False)


def zero_without_trace(optimizer: torch.optim.Optimizer) -> None:
    for parameter in optimizer.param_groups[0]["params"]:
        if parameter.grad is not None:
            parameter.grad.data.zero_()


def new_tensor(optimizer: torch.optim.Optimizer) -> None:
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.zeros_like(parameter)


def nothing(optimizer: torch.optim.Optimizer) -> None:
    pass


def found(
    clear: Callable[[torch.optim.Optimizer], None], *, passes: int = 1, clips: bool = False, late: int = 0
) -> float:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer, kept = torch.optim.SGD(model.parameters(), 0.1), KeptGradients()
    for _ in range(4):
        for index in range(passes):
            if index == late:
                clear(optimizer)
            model(torch.randn(4, 3)).square().mean().backward()
        if clips:
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        kept.add_step(optimizer)
    kept.end()
    return float(kept.result()["gradients_not_cleared"].number)


@pytest.mark.parametrize("clips", [False, True], ids=["plain", "clipped"])
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("clear", [set_to_none, zero, zero_without_trace, new_tensor])
def test_kept_gradients_cleared_finds_nothing(
    clear: Callable[[torch.optim.Optimizer], None], passes: int, clips: bool
) -> None:
    assert found(clear, passes=passes, clips=clips) == 0


@pytest.mark.parametrize("clips", [False, True], ids=["plain", "clipped"])
@pytest.mark.parametrize("passes", [1, 3])
def test_kept_gradients_never_cleared_found(passes: int, clips: bool) -> None:
    assert found(nothing, passes=passes, clips=clips) == 1


def test_kept_gradients_of_other_network_cleared_later() -> None:
    # The generator's backward pass leaves gradients in the discriminator, which clears them before its own.
    assert found(set_to_none, passes=2, late=1) == 0


def test_kept_gradients_one_step_not_judged() -> None:
    kept = KeptGradients()
    assert float(kept.result()["gradients_not_cleared"].number) == -1


def test_kept_gradients_end_removes_hooks() -> None:
    model = nn.Linear(1, 1)
    optimizer, kept = torch.optim.SGD(model.parameters(), 0.1), KeptGradients()
    model(torch.ones(1, 1)).sum().backward()
    kept.add_step(optimizer)
    assert any(parameter._backward_hooks for parameter in model.parameters())
    kept.end()
    assert not any(
        parameter._backward_hooks or parameter._post_accumulate_grad_hooks for parameter in model.parameters()
    )


def test_kept_gradients_passes_since_clearing_counted() -> None:
    model, kept = nn.Linear(3, 2), KeptGradients()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    kept.add_step(optimizer)
    for clears in (True, True, False):  # LBFGS and SAM clear between the passes of a step
        if clears:
            optimizer.zero_grad()
        model(torch.ones(4, 3)).sum().backward()
    assert kept.passes == 2
    kept.end()


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_kept_gradients_share_left_since_pass(share: float) -> None:
    model, kept = nn.Linear(3, 2), KeptGradients()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        model(torch.ones(4, 3)).sum().backward()
        left = kept.share_kept()
        for parameter in model.parameters():
            parameter.grad.mul_(share)
        if left is not None:
            assert float(kept.share_kept()) == pytest.approx(share)
        optimizer.step()
        kept.add_step(optimizer)
        optimizer.zero_grad()
    assert left is not None
    kept.end()
