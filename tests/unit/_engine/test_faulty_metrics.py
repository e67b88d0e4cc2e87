"""Tests that a metric or value from outside the package that is wrong loses its own tags and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._config.schedule import every
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.metrics import Context, Histogram, Max, Mean, Metric, PerGroup, Select, Sum, Text, Value
from tbx_callbacks.metrics.norms import WeightNorm
from tbx_callbacks.metrics.values import Derived
from tbx_callbacks.writers.base import MemoryWriter


@dataclass(frozen=True)
class Faulty(Metric):
    """Returns what the test asks for."""

    make: Callable[[Context], Any] = dict

    tags: ClassVar[dict[str, str]] = {"mine": "", "mine/{group}": "", "many/<name>": ""}
    select: ClassVar[Select | None] = Select(by="layer")

    def __call__(self, context: Context) -> Any:
        return self.make(context)


Faulty.__module__ = "somewhere.else"


@dataclass(frozen=True)
class Wrong(Value):
    """Has a result of any kind."""

    made: Any = None

    def sums(self) -> tuple[float, ...]:
        return (1.0,)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> Any:
        if isinstance(self.made, BaseException):
            raise self.made
        return self.made


def raise_error(numbers: Any) -> Any:
    raise KeyError("no")


def exit_process(context: Any) -> Any:
    sys.exit(3)


class BadReprError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


def raise_without_repr(context: Any) -> Any:
    raise BadReprError


def train(make: Callable[[Context], Any], steps: int = 2) -> MemoryWriter:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    writer = MemoryWriter()
    faulty = MetricSpec("faulty", Faulty(make), 1, Faulty.select)
    norm = MetricSpec("weight_norm", WeightNorm(), 1, Select(by="total"))
    engine = Engine([faulty, norm], every=1, strict=False, writer=writer)
    engine.start(TrainingInfo(model, optimizer, log_schedule=every(1)))
    for step in range(1, steps + 1):
        engine.begin_step(step)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        engine.flush_step()
    engine.end(steps, succeeded=True)
    return writer


FAULTS: dict[str, tuple[Callable[[Context], Any], str]] = {
    "tensor": (lambda context: {"mine": torch.tensor(1.0)}, "mine must be a value such as Sum"),
    "number": (lambda context: {"mine": 1.0}, "mine must be a value such as Sum"),
    "none": (lambda context: None, "a metric must return a mapping"),
    "list": (lambda context: [Max(1.0)], "a metric must return a mapping"),
    "vector": (lambda context: {"mine": Max(torch.ones(3))}, "must be one number, got shape (3,)"),
    "text part": (lambda context: {"mine": Max("no")}, "must be a number or a tensor, got str"),  # type: ignore[arg-type]
    "complex part": (lambda context: {"mine": Sum(torch.tensor(1 + 2j))}, "must be a real number"),
    "huge part": (lambda context: {"mine": Sum(10**400)}, "too large"),
    "meta part": (lambda context: {"mine": Sum(torch.ones((), device="meta"))}, "must be a real number"),
    "text in group": (lambda context: {"mine/{group}": Sum({"a": "s"})}, "must be a number or a tensor, got str"),  # type: ignore[dict-item]
    "vector in group": (lambda context: {"mine/{group}": Sum({"a": torch.ones(3)})}, "must be one number"),
    "illegal group": (lambda context: {"mine/{group}": Sum({"a b": 1.0})}, "a tag must be made of letters"),
    "short groups": (lambda context: {"mine/{group}": Sum(PerGroup(["a", "b"], torch.ones(1)))}, "2 numbers"),
    "text of none": (lambda context: {"mine": Text(None)}, "a Text must be a string"),  # type: ignore[arg-type]
    "histogram of none": (lambda context: {"mine": Histogram([None])}, "a Histogram must be of tensors"),  # type: ignore[list-item]
    "histogram without bins": (lambda context: {"mine": Histogram([torch.ones(2)], 0)}, "bins must be between"),
    "no group in tag": (
        lambda context: {"mine": Sum(context.sum_by_group(context.weights, torch.sum))},
        "must contain {group}",
    ),
    "no groups in value": (lambda context: {"mine/{group}": Sum(1.0)}, "must not contain {group}"),
    "other groups": (
        lambda context: {"mine/{group}": Mean({"a": 1.0, "b": 2.0}, {"a": 1.0})},
        "must have the same groups",
    ),
    "undeclared": (lambda context: {"yours": Max(1.0)}, "every tag must be declared in tags, got 'yours'"),
    "illegal tag": (lambda context: {"many/a b": Max(1.0)}, "a tag must be made of letters"),
    "updates without need": (
        lambda context: {"mine/{group}": Sum(context.sum_by_group(context.updates, torch.sum))},  # type: ignore[arg-type]
        "add weights_before to needs",
    ),
    "exit": (exit_process, "error: SystemExit(3)"),
    "error without repr": (raise_without_repr, "error: BadReprError without a text"),
    "in place": (
        lambda context: {"mine/{group}": Max(context.max_by_group(context.weights, lambda w: w.abs_().max()))},
        "must not change its argument",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_metric_named_and_disabled_alone(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, message = FAULTS[name]
    writer = train(make)
    assert writer.tags == ["weight_norm/total"]
    assert len(writer.series("weight_norm/total")) == 2
    (logged,) = caplog.messages
    assert logged.startswith("metric faulty failed at step 1 and is disabled")
    assert message in logged
    if "in place" not in name and "error: ValueError('the tag" not in logged:
        assert "tbx_callbacks/_engine" not in logged


@pytest.mark.parametrize("made", [ValueError("no"), SystemExit(1), BadReprError(), "text", object(), [1.0]])
def test_wrong_result_loses_its_tag_only(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    writer = train(lambda context: {"mine": Wrong(made), "many/a": Max(1.0)})
    assert set(writer.tags) == {"weight_norm/total", "many/a"}
    (logged,) = caplog.messages
    assert logged.startswith("mine is not written: its value cannot be computed")


@pytest.mark.parametrize("made", [2, np.float32(2.0), np.int64(2), True, Text("2")])
def test_result_of_other_number_type_written(made: Any) -> None:
    (_, value), *_ = train(lambda context: {"mine": Wrong(made)}).series("mine")
    assert value == (made if isinstance(made, Text) else float(made))
    assert type(value) in (float, Text)


def test_failing_derived_value_loses_itself_only(caplog: pytest.LogCaptureFixture) -> None:
    for function in (raise_error, exit_process, raise_without_repr, lambda numbers: None):
        caplog.clear()
        writer = train(lambda context, function=function: {"mine": Derived(function), "many/a": Max(1.0)})
        assert set(writer.tags) == {"weight_norm/total", "many/a"}
        assert len(caplog.messages) == 1


def test_derived_value_of_undeclared_tag_left_out(caplog: pytest.LogCaptureFixture) -> None:
    writer = train(lambda context: {"mine": Derived(lambda numbers: {"train/loss": 1.0})})
    assert writer.tags == ["weight_norm/total"]
    (logged,) = caplog.messages
    assert "every tag must be declared in tags, got 'train/loss'" in logged
    writer = train(lambda context: {"mine": Derived(lambda numbers: {"mine": 1.0, "many/x": 2.0})})
    assert set(writer.tags) == {"mine", "many/x", "weight_norm/total"}


@pytest.mark.parametrize("event", ["start", "end", "log"])
def test_failing_derived_value_of_event_stays_inside(event: str, caplog: pytest.LogCaptureFixture) -> None:
    @dataclass(frozen=True)
    class AtEvent(Faulty):
        events: ClassVar[frozenset[str]] = frozenset({event})

    AtEvent.__module__ = "somewhere.else"
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made = AtEvent(lambda context: {"mine": Derived(raise_error)})
    engine = Engine([MetricSpec("faulty", made, None, None)], every=1, strict=False, writer=MemoryWriter())
    engine.start(TrainingInfo(model, optimizer, log_schedule=every(1)))
    engine.begin_step(1)
    optimizer.step()
    engine.record_logs(1, {"train/loss": 1.0})
    engine.end(1, succeeded=True)
    assert ["mine is not written" in message for message in caplog.messages] == [True]
