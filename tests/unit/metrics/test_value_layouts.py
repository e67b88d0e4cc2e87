"""Tests that values are described to other ranks as data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from tbx_callbacks._model.parameters import PerGroup
from tbx_callbacks.metrics.value_layouts import check_can_travel, from_json, to_json
from tbx_callbacks.metrics.values import BatchMean, ClipFactor, HistogramParts, Max, Norm, Sum, Unless, Value


@dataclass(frozen=True)
class Options(Value):
    part: Any = 0.0
    names: tuple[Any, ...] = ()
    scale: Any = None
    computed: float = field(init=False, default=3.0)

    def sums(self) -> tuple[Any, ...]:
        return (self.part,)


@dataclass(frozen=True)
class Positive(Value):
    part: Any

    def __post_init__(self) -> None:
        if self.part <= 0:
            raise ValueError("part must be positive")


def sent(value: Value) -> Value:
    return from_json(json.loads(json.dumps(to_json(value))))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Norm(torch.tensor(4.0)), Norm(0.0)),
        (Unless(ClipFactor(PerGroup(["a"], torch.ones(1)), 2.0), torch.tensor(1.0)), Unless(ClipFactor({}, 2.0), 0.0)),
        (HistogramParts(), HistogramParts()),
        (BatchMean(torch.ones(5)), BatchMean(0.0)),  # type: ignore[arg-type]
        (Options(names=("a", (1, None))), Options(names=("a", (1, None)))),
        (Options(scale=np.float32(0.5)), Options(scale=0.5)),
        (Options(scale=float("inf")), Options(scale=float("inf"))),
        (Options(scale=10**40), Options(scale=10**40)),
        (Options(scale={"a": torch.ones(1)}), Options(scale={})),
    ],
)
def test_value_keeps_class_and_options(value: Value, expected: Value) -> None:
    assert sent(value) == expected
    check_can_travel(value)


@pytest.mark.parametrize("option", [lambda: 1.0, object(), {1, 2}, torch.float32, b"x", 1j])
def test_value_with_other_option_refused(option: Any) -> None:
    for scale in (option, (1, (option,))):
        with pytest.raises(TypeError, match="scale must be a number, a text, None or a tuple of these, got"):
            check_can_travel(Options(scale=scale))


def test_value_without_dataclass_refused() -> None:
    class Plain(Value):
        pass

    with pytest.raises(TypeError, match="a value must be a dataclass, got Plain"):
        check_can_travel(Plain())


def test_value_that_refuses_placeholder_refused() -> None:
    with pytest.raises(TypeError, match=r"Positive must accept 0.0 for each of its parts"):
        check_can_travel(Positive(torch.tensor(1.0)))


def test_unknown_class_is_not_imported() -> None:
    description = {**to_json(Sum(1.0)), "class": "os:system"}
    value = from_json(description)
    with pytest.raises(TypeError, match="os:system must be defined on every rank"):
        value.result([1.0], [])


def test_class_that_is_no_value_not_called() -> None:
    value = from_json({"class": "builtins:print", "options": {}})
    with pytest.raises(TypeError, match="builtins:print must be defined"):
        value.result([], [])


def test_class_defined_again_last_one_used() -> None:
    def define(number: float) -> type[Value]:
        @dataclass(frozen=True)
        class Again(Value):
            def result(self, sums: Any, maxes: Any) -> float:
                return number

        return Again

    kinds = define(1.0), define(2.0)
    assert sent(kinds[0]()).result([], []) == 2.0
    assert sent(Max(1.0)) == Max(1.0)
