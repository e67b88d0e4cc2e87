"""Tests the factor by which cross entropies enter a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tbx_callbacks._wiring.gradient_scale import GradientScale

MICRO = 4


def found(
    loss_of: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...] = (8,), passes: int | None = None
) -> float | None:
    torch.manual_seed(0)
    model, scale = nn.Linear(5, 3), GradientScale()
    for _ in range(2):
        for _ in range(MICRO):
            logits = model(torch.randn(*shape, 5))
            scale.add_outputs(logits)
            loss_of(logits, torch.randint(0, 3, shape)).backward()
        scale.add_step(MICRO if passes is None else passes)
    scale.end()
    check = scale.result().get("gradients_summed")
    return None if check is None else float(check.number)


def mean(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def test_gradient_scale_mean_of_each_is_sum() -> None:
    assert found(mean) == MICRO
    assert found(mean, shape=(2, 6)) == MICRO  # tokens


def test_gradient_scale_ignored_tokens_not_rows() -> None:
    def masked(logits: Tensor, labels: Tensor) -> Tensor:
        return mean(logits, torch.where(torch.arange(6) < 4, labels, -100))

    assert found(masked, shape=(2, 6)) == MICRO


def test_gradient_scale_divided_loss_finds_nothing() -> None:
    assert found(lambda logits, labels: mean(logits, labels) / MICRO) == 0


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda logits, labels: mean(logits, labels) * 65536,  # a loss scale
        lambda logits, labels: F.mse_loss(logits, F.one_hot(labels, 3).float()),
        lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.1),
        lambda logits, labels: mean(logits, labels) + logits.square().mean(),
        lambda logits, labels: F.cross_entropy(logits, labels, weight=torch.tensor([1.0, 2.0, 4.0])),
    ],
    ids=["scaled", "squares", "smoothed", "penalty", "weights"],
)
def test_gradient_scale_other_loss_not_judged(loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert found(loss_of) in (None, -1.0)


def test_gradient_scale_several_passes_one_backward_unjudged() -> None:
    assert found(mean, passes=1) is None  # two passes with different dropout
    assert found(mean, passes=MICRO + 1) is None


def test_gradient_scale_passes_before_clearing_ignored() -> None:
    assert found(mean, passes=2) == 2


@pytest.mark.parametrize(("kept", "expected"), [(1 / MICRO, 0), (0.03, MICRO), (1.0, MICRO)])
def test_gradient_scale_divided_after_last_pass(kept: float, expected: float) -> None:
    torch.manual_seed(0)
    model, scale = nn.Linear(5, 3), GradientScale()
    for _ in range(MICRO):
        logits = model(torch.randn(8, 5))
        scale.add_outputs(logits)
        mean(logits, torch.randint(0, 3, (8,))).backward()
    scale.add_step(MICRO, kept=torch.tensor(kept))
    scale.end()
    assert float(scale.result()["gradients_summed"].number) == expected


SIGNS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "mean": (mean, 0),
    "minus": (lambda logits, labels: -mean(logits, labels), 1),
    "times minus two": (lambda logits, labels: mean(logits, labels) * torch.tensor(-2.0), -1),  # as a reward
    "half minus": (lambda logits, labels: mean(logits, labels) / -2, 1),
    "scaled minus": (lambda logits, labels: mean(logits, labels) * -65536, 1),
    "mean of other": (lambda logits, labels: logits.square().mean(), -1),
    "reward": (lambda logits, labels: (logits.log_softmax(-1)[:, 0] * torch.arange(8.0)).mean(), -1),
}


@pytest.mark.parametrize("case", SIGNS)
def test_gradient_scale_sign_of_cross_entropy(case: str) -> None:
    loss_of, expected = SIGNS[case]
    torch.manual_seed(0)
    model, scale = nn.Linear(5, 3), GradientScale()
    for _ in range(3):
        logits = model(torch.randn(8, 5))
        scale.add_outputs(logits)
        loss_of(logits, torch.randint(0, 3, (8,))).backward()
    scale.end()
    assert float(scale.result()["loss_maximised"].number) == expected


def test_gradient_scale_adversary_beside_loss_not_maximised() -> None:
    torch.manual_seed(0)
    model, scale = nn.Linear(5, 3), GradientScale()
    for sign in (1, -1, -1):
        logits = model(torch.randn(8, 5))
        scale.add_outputs(logits)
        (sign * mean(logits, torch.randint(0, 3, (8,)))).backward()
    scale.end()
    assert float(scale.result()["loss_maximised"].number) == 0


def test_gradient_scale_outputs_by_name_read() -> None:
    scale, logits = GradientScale(), torch.randn(4, 3, requires_grad=True)
    for _ in range(2):
        scale.add_outputs({"logits": logits * 1})
    scale.end()
    assert scale.result() == {}
