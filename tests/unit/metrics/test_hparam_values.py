"""Tests that hyper-parameters of any type become numbers, booleans and texts."""

from __future__ import annotations

import argparse
import enum
import functools
import json
import pathlib
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from tensorboardX import summary
from torch import nn

from tbx_callbacks.metrics.hparam_values import plain_hparams


class Colour(enum.Enum):
    RED = 1


class Kind(str, enum.Enum):
    STEPS = "steps"


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BrokenMapping(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no items")


@dataclass
class Options:
    lr: float = 0.1
    inner: dict[str, Any] = field(default_factory=lambda: {"path": pathlib.PurePosixPath("a/b")})


def function() -> None:
    """Stands for a callable."""


ITSELF: dict[str, Any] = {}
ITSELF["itself"] = ITSELF


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (np.bool_(False), False),
        (3, 3),
        (2**53, 2**53),
        (10**30, "1" + "0" * 30),
        (np.int64(3), 3),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.array(2.0), 2.0),
        (np.array([1, 2]), "[1, 2]"),
        (np.zeros((9, 9)), "ndarray of shape [9, 9]"),
        (torch.tensor(0.5), 0.5),
        (torch.tensor(True), True),
        (torch.tensor([0.5, 1.0]), "[0.5, 1.0]"),
        (torch.zeros(4, 5), "Tensor of shape [4, 5]"),
        (torch.empty((), device="meta"), "Tensor"),
        (Fraction(1, 4), 0.25),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (1j, "1j"),
        (None, "None"),
        ("text", "text"),
        ("\ud800", "?"),
        ("x" * 1000, "x" * 497 + "..."),
        (b"ab", "b'ab'"),
        (pathlib.PurePosixPath("data/x"), "data/x"),
        (torch.float32, "torch.float32"),
        (torch.device("cpu"), "cpu"),
        (Colour.RED, "RED"),
        (Kind.STEPS, "steps"),
        (nn.Sequential(nn.Linear(2, 2)), "Sequential"),
        (nn.Linear, "Linear"),
        (function, "function"),
        (functools.partial(function), "partial(function)"),
        ([1, pathlib.PurePosixPath("a"), Colour.RED], "[1, 'a', 'RED']"),
        ((), "[]"),
        ({}, "{}"),
        (Broken(), "Broken"),
        ([Broken()], "['Broken']"),
    ],
)
def test_hparam_value_becomes_number_or_text(value: Any, expected: Any) -> None:
    plain = plain_hparams({"x": value})
    assert plain == {"x": expected}
    assert type(plain["x"]) is type(expected)
    json.dumps(plain)
    summary.hparams(plain, {})  # tensorboardX stores it


def test_hparams_nested_flattened() -> None:
    nested = {"a": {"b": 1, "c": {"d": Kind.STEPS}}, 7: 8, None: argparse.Namespace(x=2)}
    assert plain_hparams(nested) == {"a/b": 1, "a/c/d": "steps", "7": 8, "None/x": 2}
    expected: dict[str, Any] = {"lr": 0.1, "inner/path": "a/b"}
    assert plain_hparams(Options()) == expected
    assert plain_hparams(argparse.Namespace(**vars(Options()))) == expected


def test_hparams_that_raise_become_their_type() -> None:
    assert list(plain_hparams(ITSELF).values()) == ["dict"]
    assert plain_hparams({"x": 10**5000}) == {"x": "int"}  # Python refuses to print it
    assert plain_hparams({"x": BrokenMapping(a=1)}) == {"x": "BrokenMapping"}


@pytest.mark.parametrize("value", ["lr=0.1", 3, [("lr", 0.1)], Options])
def test_hparams_of_wrong_type_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"hparams must be a mapping of names to values, got .*; pass for example"):
        plain_hparams(value)
