"""Tests that cross entropies of probabilities, and likelihoods of logits, are found in the graph of a loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tbx_callbacks._wiring.loss_graph import inputs_of_cross_entropy, is_mean_cross_entropy, maximised

LABELS = torch.tensor([0, 1, 2, 1])
LossOf = Callable[[Tensor], Tensor]
HEALTHY: dict[str, LossOf] = {
    "logits": lambda x: F.cross_entropy(x, LABELS),
    "smoothed": lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1),
    "log probabilities": lambda x: F.nll_loss(x.log_softmax(-1), LABELS),
    "softmax in attention": lambda x: F.cross_entropy(x.softmax(-1) @ torch.ones(3, 3), LABELS),
    "sigmoid in a gate": lambda x: F.binary_cross_entropy_with_logits(x.sigmoid() * x, torch.ones(4, 3)),
    "log softmax twice": lambda x: F.cross_entropy(x.log_softmax(-1), LABELS),  # the same as once
}
WRONG: dict[str, LossOf] = {
    "softmax": lambda x: F.cross_entropy(x.softmax(-1), LABELS),
    "softmax in shape": lambda x: F.cross_entropy(x.view(2, 2, 3).softmax(-1).view(-1, 3).double(), LABELS) / 4,
    "softmax smoothed": lambda x: F.cross_entropy(x.softmax(-1), LABELS, label_smoothing=0.1),
    "softmax clamped": lambda x: F.cross_entropy(x.softmax(-1).clamp(min=1e-6), LABELS),
    "softmax likelihood": lambda x: F.nll_loss(x.softmax(-1), LABELS),
    "sigmoid": lambda x: F.binary_cross_entropy_with_logits(x.sigmoid(), torch.ones(4, 3)),
    "one of two": lambda x: F.cross_entropy(x, LABELS) + 0.5 * F.cross_entropy(x.softmax(-1), LABELS),
    "targets": lambda x: F.cross_entropy(x.softmax(-1), F.one_hot(LABELS, 3).float()),
}


@pytest.mark.parametrize("case", HEALTHY)
def test_usual_inputs_of_cross_entropy_accepted(case: str) -> None:
    loss = HEALTHY[case](torch.randn(4, 3, requires_grad=True))
    checks = inputs_of_cross_entropy(loss)
    assert "double_softmax" not in checks or checks["double_softmax"].number == 0
    assert "nll_of_logits" not in checks or checks["nll_of_logits"].number == 0


@pytest.mark.parametrize("backward", [False, True], ids=["before backward", "after backward"])
@pytest.mark.parametrize("case", WRONG)
def test_cross_entropy_of_probabilities_found(case: str, backward: bool) -> None:
    loss = WRONG[case](torch.randn(4, 3, requires_grad=True))
    if backward:
        loss.backward()
    assert inputs_of_cross_entropy(loss)["double_softmax"].number == 1


def test_inputs_of_other_loss_not_judged() -> None:
    model = nn.Linear(3, 1)
    assert inputs_of_cross_entropy(F.mse_loss(model(torch.randn(4, 3)), torch.ones(4, 1))) == {}
    assert inputs_of_cross_entropy(torch.tensor(1.0)) == {}


LAYER, CONVOLUTION = nn.Linear(3, 3), nn.Conv2d(3, 3, 1)
LIKELIHOODS: dict[str, tuple[LossOf, int]] = {
    "linear layer": (lambda x: F.nll_loss(LAYER(x), LABELS), 1),
    "without a bias": (lambda x: F.nll_loss(x @ LAYER.weight, LABELS), 1),
    "of a sequence": (lambda x: F.nll_loss(LAYER(x.view(2, 2, 3)).transpose(1, 2), LABELS.view(2, 2)), 1),
    "of a picture": (lambda x: F.nll_loss(CONVOLUTION(x.view(1, 3, 2, 2)), LABELS.view(1, 2, 2)), 1),
    "in autocast": (lambda x: F.nll_loss(LAYER(x).to(torch.bfloat16).float(), LABELS) / 4, 1),
    "one of two": (lambda x: F.cross_entropy(LAYER(x), LABELS) + F.nll_loss(LAYER(x), LABELS), 1),
    "log softmax": (lambda x: F.nll_loss(LAYER(x).log_softmax(-1), LABELS), 0),
    "cross entropy": (lambda x: F.cross_entropy(LAYER(x), LABELS), 0),
    "logarithm": (lambda x: F.nll_loss(LAYER(x).softmax(-1).log(), LABELS), 0),
    "mixture": (lambda x: F.nll_loss(torch.logaddexp(x.log_softmax(-1), x.log_softmax(-1)) - 0.69, LABELS), 0),
}


@pytest.mark.parametrize("case", LIKELIHOODS)
def test_likelihoods_of_logits_counted(case: str) -> None:
    loss_of, expected = LIKELIHOODS[case]
    assert inputs_of_cross_entropy(loss_of(torch.randn(4, 3, requires_grad=True)))["nll_of_logits"].number == expected


SIGNS: dict[str, tuple[LossOf, int | None]] = {
    "mean": (lambda x: F.cross_entropy(x, LABELS), 0),
    "divided": (lambda x: F.cross_entropy(x, LABELS) / 4, 0),
    "minus": (lambda x: -F.cross_entropy(x, LABELS), 1),
    "minus one times": (lambda x: -1.0 * F.cross_entropy(x, LABELS) * 3, 1),
    "twice minus": (lambda x: (-F.cross_entropy(x, LABELS)).neg(), 0),
    "one minus": (lambda x: 1 - F.mse_loss(x, torch.ones(4, 3)), 1),
    "two terms": (lambda x: -F.cross_entropy(x, LABELS) - F.mse_loss(x, torch.ones(4, 3)), 2),
    "adversary": (lambda x: F.cross_entropy(x, LABELS) - 0.1 * F.cross_entropy(x, LABELS), 0),
    "targets": (lambda x: F.cross_entropy(x, F.one_hot(LABELS, 3).float()), None),
    "reward of the batch": (lambda x: F.cross_entropy(x, LABELS) * torch.tensor(-2.0), None),
    "negative reward": (lambda x: F.cross_entropy(x, LABELS) * -3.7, None),
    "minus a tenth": (lambda x: F.cross_entropy(x, LABELS) * -0.1, 1),
    "reward": (lambda x: -x.log_softmax(-1)[:, 0].mean(), None),
}


@pytest.mark.parametrize("case", SIGNS)
def test_maximised_sign_of_every_term(case: str) -> None:
    loss_of, expected = SIGNS[case]
    check = maximised(loss_of(torch.randn(4, 3, requires_grad=True))).get("loss_maximised")
    assert (None if check is None else check.number) == expected


def test_maximised_after_backward_minus_is_seen() -> None:
    loss = -F.cross_entropy(torch.randn(4, 3, requires_grad=True), LABELS)
    loss.backward()
    assert maximised(loss)["loss_maximised"].number == 1


MEANS: dict[str, tuple[LossOf, bool]] = {
    "mean": (lambda x: F.cross_entropy(x, LABELS), True),
    "mean in double": (lambda x: F.cross_entropy(x, LABELS).double(), True),
    "sum": (lambda x: F.cross_entropy(x, LABELS, reduction="sum"), False),
    "divided": (lambda x: F.cross_entropy(x, LABELS) / 4, False),
    "with penalty": (lambda x: F.cross_entropy(x, LABELS) + x.square().mean(), False),
    "squares": (lambda x: F.mse_loss(x, torch.ones(4, 3)), False),
    "number": (lambda x: torch.tensor(1.0), False),
}


@pytest.mark.parametrize("backward", [False, True], ids=["before backward", "after backward"])
@pytest.mark.parametrize("case", MEANS)
def test_is_mean_cross_entropy_alone(case: str, backward: bool) -> None:
    loss_of, expected = MEANS[case]
    loss = loss_of(torch.randn(4, 3, requires_grad=True))
    if backward and loss.requires_grad:
        loss.backward()
    assert is_mean_cross_entropy(loss) == expected
