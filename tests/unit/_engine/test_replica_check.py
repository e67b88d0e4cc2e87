"""Tests the comparison of copies, with several ranks in one process."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.schedule import every
from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._engine.metric_plan import MetricRun, plan
from tbx_callbacks._engine.replica_check import Fingerprints, ReplicaCheck
from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.metrics.values import Partial, Partials

METRICS: list[Any] = [
    {"grad_norm": {"by": "total"}},
    {"grad_norm": {"by": "parameter"}},
    {"weight_norm": {"by": "parameter"}},
    {"optimizer_state": {"by": "parameter"}},
    "learning_rate",
]


class Rank:
    """One rank with a copy of a model of two layers, whose gradients are all ones."""

    def __init__(self, metrics: list[Any] = METRICS) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()
        access = ModelAccess(self.model, {"SGD": self.optimizer})
        items = load_config({"every": 1, "metrics": metrics}).items
        self.runs: list[MetricRun] = plan(items, 1, access.parameters, every(1), access.parameters_by_optimizer)
        self.access, self.check = access, ReplicaCheck()

    def layer(self, index: int) -> nn.Linear:
        layer = self.model[index]
        assert isinstance(layer, nn.Linear)
        return layer

    def partials(self) -> Partials:
        values, key = StepValues(), [f"{n} metric" for n in range(len(self.runs))]
        context = Context(
            "step", 1, RunInfo(), gradients=self.access.gradients("SGD"), weights=self.access.weights("SGD")
        )
        self.check.add(self.access, self.runs, key, "SGD", context, self.access.gradient_elements("SGD"), values)
        return values.pack().partials()


def judged(first: Rank, second: Rank) -> set[str]:
    """The tags that the first rank leaves out."""
    parts, others = first.partials(), second.partials()
    merged = {
        tag: Partial(part.value, (), list(map(max, part.maxes, others[tag].maxes))) for tag, part in parts.items()
    }
    return set(first.check.judge(merged))


def test_check_equal_copies_nothing_left_out(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Rank(), Rank()
    second.layer(0).weight.data.mul_(1 + 1e-6)  # last bits, as on other devices
    assert judged(first, second) == set()
    assert not caplog.records


@pytest.mark.parametrize("part", ["weight", "gradient", "nan"])
def test_check_differing_copy_all_its_tags(part: str, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Rank(), Rank()
    weight = second.layer(1).weight
    assert weight.grad is not None
    if part == "weight":
        weight.data.mul_(1.01)
    else:
        weight.grad.mul_(1.01 if part == "gradient" else math.nan)
    of_parameter = {"grad_norm/total", "grad_norm/1.weight", "weight_norm/1.weight"}
    left_out = judged(first, second)
    assert {tag for tag in left_out if not tag.startswith("optimizer_state")} == of_parameter
    assert all(tag.endswith("1.weight") for tag in left_out if tag.startswith("optimizer_state"))
    assert "numbers of 1.weight are left out: ranks hold different copies" in caplog.text


def test_check_copy_that_differed_once_stays_out(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Rank(), Rank()
    gradient = second.layer(0).weight.grad
    assert gradient is not None
    gradient.zero_()
    once = judged(first, second)
    gradient.fill_(1.0)
    assert judged(first, second) == once != set()
    assert len(caplog.records) == 1


def test_check_all_copies_nan_not_different() -> None:
    ranks = Rank(), Rank()
    for rank in ranks:
        rank.layer(0).weight.grad = torch.full((3, 3), math.nan)
    assert judged(*ranks) == set()


def test_check_absent_gradient_not_compared() -> None:
    first, second = Rank([{"grad_norm": {"by": "total"}}]), Rank([{"grad_norm": {"by": "total"}}])
    second.layer(0).weight.grad = None
    assert judged(first, second) == set()


def test_check_state_of_one_rank_only_its_metric(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Rank(), Rank()
    second.optimizer.state.pop(second.layer(0).weight)
    left_out = judged(first, second)
    assert left_out
    assert all(tag.startswith("optimizer_state/") for tag in left_out)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "optimizer_state of 0.weight is left out: not every rank keeps this state" in caplog.text


def test_check_without_parameter_metrics_nothing_to_compare() -> None:
    assert Rank(["learning_rate"]).partials() == {}


def test_fingerprints_absent_number_is_no_maximum() -> None:
    value = Fingerprints(torch.zeros(0), ("a", "b"), weights=False, states=False, members=())
    assert value.parts_of([4.0, -1.0]) == ([], [4.0, -math.inf, -4.0, -math.inf])
