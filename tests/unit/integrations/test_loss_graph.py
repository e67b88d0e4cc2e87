"""Tests what the graph of a loss tells about its reduction and scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks.integrations.loss_graph import divides_mean, is_by_items, is_mean, last_factor

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def logits() -> Tensor:
    return torch.randn(6, 3, requires_grad=True)


def cross_entropy(reduction: str = "mean") -> Tensor:
    return nn.functional.cross_entropy(logits(), LABELS, reduction=reduction)


def test_is_mean_of_graphs_recognised() -> None:
    mean, total = cross_entropy(), cross_entropy("sum")
    means = [mean, mean + 0.1 * mean, -mean, mean.bfloat16().float(), total / 6, (mean + mean) / 2]
    means += [logits().square().mean(), nn.functional.binary_cross_entropy_with_logits(logits(), torch.zeros(6, 3))]
    assert all(is_mean(loss, 24) for loss in means)
    others = (total / 24, total / torch.tensor(24), total, total / 24 + mean, logits()[0, 0], mean.detach(), mean.exp())
    assert not any(is_mean(loss, 24) for loss in others)
    assert not is_mean(total / (24 * 3), 24)  # items times classes, as in label smoothing
    assert is_mean(mean, None)
    assert is_by_items(total / 24, 24)
    assert is_by_items(total / torch.tensor(24) * 2, torch.tensor(24))
    assert not any(is_by_items(loss, 24) for loss in (mean, total, total / 24 + mean, logits()[0, 0], total / 7))


def test_last_factor_read_before_backward() -> None:
    loss = cross_entropy()
    assert last_factor(loss) is None
    assert last_factor(loss * 2) == 2
    assert last_factor(loss / torch.tensor(4)) == 0.25
    freed = loss / 4
    freed.backward()  # type: ignore[no-untyped-call]
    assert last_factor(freed) is None


@pytest.mark.parametrize("backward", [False, True])
def test_divides_mean_also_after_backward(backward: bool) -> None:
    in_place = cross_entropy()
    in_place /= 4
    divided = (cross_entropy() / 4, cross_entropy().float() / torch.tensor(4), logits().square().mean() / 2, in_place)
    others = (cross_entropy(), cross_entropy("sum") / 6, cross_entropy() * 2, (cross_entropy() + cross_entropy()) / 2)
    for loss in (*divided, *others):
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
    assert all(divides_mean(loss) for loss in divided)
    assert not any(divides_mean(loss) for loss in others)
    assert not any(divides_mean(loss) for loss in (None, 0.5, torch.tensor(1.0)))
