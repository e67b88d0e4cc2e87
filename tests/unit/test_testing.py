"""Tests the helpers for users' own tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from tbx_callbacks._model.parameters import Select
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Mean
from tbx_callbacks.rules import Finding, Need, Rule
from tbx_callbacks.rules.nonfinite import NonFinite
from tbx_callbacks.runs import Run
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


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        (SmallShare, {}, "metric must be an object, got the class SmallShare"),
        (SmallShare(), {"select": "total"}, "select must be a Select, got 'total'"),
        ({"weight_norm": {}}, {"select": Select()}, "select must be left out for an entry of a metric set"),
        ("layout", {}, "metric must run in the optimizer's step, got layout"),
        ("activations", {}, "metric must run in the optimizer's step, got activations"),
        (object(), {}, "it must be a frozen dataclass"),
    ],
)
def test_measure_wrong_argument_names_remedy(metric: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        measure(metric, model(), **options)


def test_measure_entry_with_cadence_runs_at_once() -> None:
    assert measure({"weight_norm": {"by": "total", "every": 100}}, model()) == {
        "weight_norm/total": pytest.approx(2**0.5)
    }


@dataclass(frozen=True)
class Nameless(Rule):
    needs: ClassVar[tuple[Need, ...]] = (Need("a", "loss", ("a",)),)
    source: ClassVar[str] = ""
    made: ClassVar[Any] = None

    def __call__(self, run: Run) -> Iterator[Finding]:
        return self.made  # type: ignore[no-any-return]


def finding(**changes: Any) -> Finding:
    given: dict[str, Any] = {
        "id": "Nameless", "severity": "note", "tags": ("a",), "steps": (1,), "means": "", "advice": "", "source": "",
    }  # fmt: skip
    return Finding(**{**given, **changes})


def test_findings_of_rule_without_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nameless, "made", [finding(numbers={"share": np.float32(0.5)})])
    (found,) = findings_of(Nameless(), {"a": [1.0]})
    assert (found.id, found.numbers) == ("Nameless", {"share": 0.5})
    assert type(found.numbers["share"]) is float


@pytest.mark.parametrize("made", [None, "text", 5, finding()])
def test_findings_of_wrong_result_raises(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nameless, "made", made)
    with pytest.raises(TypeError, match=r"a rule must yield findings|not iterable"):
        findings_of(Nameless(), {"a": [1.0]})


def test_finding_and_need_mistakes_raise() -> None:
    with pytest.raises(ValueError, match="severity must be one of error, warning, note, got 'critical'"):
        finding(severity="critical")
    with pytest.raises(TypeError, match="must be a tuple of regexes"):
        Need("a", "loss", "x/.+")  # type: ignore[arg-type]
