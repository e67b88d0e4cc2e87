"""Tests the helpers for users' own tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from tbx_callbacks._model.parameters import Select
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Mean
from tbx_callbacks.rules.nonfinite import NonFinite
from tbx_callbacks.testing import example_values, findings_of, measure, run_of
from tbx_callbacks.writers.tensorboard import TensorBoardWriter


@dataclass(frozen=True)
class SmallShare(Metric):
    limit: float = 1e-3

    tags: ClassVar[dict[str, str]] = {"small_share/{group}": "share"}
    events: ClassVar[frozenset[str]] = frozenset({"step"})
    needs: ClassVar[frozenset[str]] = frozenset()
    select: ClassVar[Select | None] = Select(by="total")

    def __call__(self, context: Context) -> Values:
        small = context.sum_by_group(context.weights, lambda elements: (elements.abs() < self.limit).sum())
        return {"small_share/{group}": Mean(small, context.sum_by_group(context.weights, torch.numel))}


def model() -> nn.Linear:
    made = nn.Linear(3, 2)
    nn.init.zeros_(made.weight)
    nn.init.ones_(made.bias)
    return made


def test_measure_metric_object_and_selection() -> None:
    assert measure(SmallShare(), model()) == {"small_share/total": 6 / 8}
    assert measure(SmallShare(), model(), select=Select(by="parameter")) == {
        "small_share/weight": 1.0,
        "small_share/bias": 0.0,
    }


def test_measure_bundled_entry_after_backward() -> None:
    trained = model()
    (trained(torch.ones(1, 3)) * 2).sum().backward()
    values = measure({"grad_norm": {"by": "total"}}, trained, torch.optim.SGD(trained.parameters(), lr=0.5))
    assert values == {"grad_norm/total": pytest.approx((4.0 * 8) ** 0.5)}
    assert trained.bias.tolist() == [0.0, 0.0]


def test_measure_failing_metric_raises() -> None:
    with pytest.raises(RuntimeError, match="metric SmallShare failed at step 1"):
        measure(SmallShare("no"), model())  # type: ignore[arg-type]


def test_measure_batch_counted() -> None:
    values = measure("nonfinite", model(), loss=torch.tensor(float("nan")), samples=4)
    assert values["nonfinite/losses"] == 1.0


def test_run_of_steps_sorted_and_findings() -> None:
    run = run_of({"a": [1.0, 2.0], "b": {20: 2.0, 10: 1.0}})
    assert (run.scalars["a"].steps.tolist(), run.scalars["b"].values.tolist()) == ([1, 2], [1.0, 2.0])
    (finding,) = findings_of(NonFinite(), {"train/loss": {10: 1.0, 20: float("nan")}})
    assert (finding.id, finding.steps[0]) == ("nonfinite", 20)
    assert findings_of(NonFinite(), {"other": [1.0]}) == []


def test_example_values_accepted_by_tensorboard_writer(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, example_values())
    writer.close()
    assert any(tmp_path.iterdir())
