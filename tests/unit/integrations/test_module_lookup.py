"""Tests that the module inside another object is found if there is exactly one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tbx_callbacks.integrations.module_lookup import module_in


def test_module_in_module_itself() -> None:
    model = nn.Linear(2, 2)
    assert module_in(model, None) is model


def test_module_in_object_with_one() -> None:
    model = nn.Linear(2, 2)
    assert module_in(SimpleNamespace(body=model, same=model, head=object()), None) is model


def test_module_in_object_trained_one_chosen() -> None:
    body, teacher = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(body.parameters(), lr=0.1)
    assert module_in(SimpleNamespace(teacher=teacher, body=body), optimizer) is body


@pytest.mark.parametrize("number", [0, 2])
def test_module_in_object_without_single_one_refused(number: int) -> None:
    parts = {f"part{n}": nn.Linear(2, 2) for n in range(number)}
    optimizer = torch.optim.SGD([p for part in parts.values() for p in part.parameters()] or [torch.ones(1)], lr=0.1)
    with pytest.raises(TypeError, match=f"got SimpleNamespace with {number} of them"):
        module_in(SimpleNamespace(**parts), optimizer)
