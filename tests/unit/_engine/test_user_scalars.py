"""Tests scalars that users log: averaged until the next point, evaluations apart."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tbx_callbacks._config.schedule import every
from tbx_callbacks._engine.user_scalars import UserScalars, evaluation_tag


def started(model: nn.Module | None = None, n: int = 2, *, is_shared: bool = False) -> UserScalars:
    scalars = UserScalars()
    scalars.start(nn.Linear(1, 1) if model is None else model, every(n), is_shared=is_shared)
    return scalars


def means(scalars: UserScalars, step: int, **options: Any) -> dict[str, float | None]:
    popped = scalars.pop(step, **options)
    return {tag: mean.result([float(mean.total), float(mean.count)], []) for tag, mean in popped.items()}  # type: ignore[arg-type]


def test_user_scalars_mean_since_last_point() -> None:
    scalars = started()
    numbers: list[Any] = [1.0, torch.tensor([2.0]), np.float32(6), np.array([3]), np.int64(3), True]
    for value in numbers:
        scalars.add("mine/a", value)
    scalars.add("mine/b", torch.tensor(4, dtype=torch.int64))
    assert not scalars.due(1)
    assert means(scalars, 1) == {}
    assert means(scalars, 2) == {"mine/a": 16 / 6, "mine/b": 4.0}
    assert means(scalars, 4) == {}


def test_user_scalars_due_only_with_values() -> None:
    scalars = started()
    assert not scalars.due(2)
    scalars.add("a", 1.0)
    assert [scalars.due(step) for step in (0, 1, 2)] == [False, False, True]


def test_user_scalars_shared_due_at_every_point() -> None:
    scalars = started(is_shared=True)
    assert [step for step in range(6) if scalars.due(step)] == [2, 4]
    assert scalars.pop(2) == {}
    assert not scalars.due(2)  # one point a step


def test_user_scalars_of_evaluation_stay_apart() -> None:
    model = nn.Linear(1, 1)
    scalars = started(model)
    scalars.add("a", 1.0, 1)
    model.eval()
    for value in (100.0, 300.0):
        scalars.add("a", value, 1)
    scalars.add("eval/b", 5.0, 1)
    model.train()
    scalars.add("a", 3.0, 1)
    scalars.after_step()
    assert means(scalars, 2) == {"a": 2.0, "earlier:1:eval/a": 200.0, "earlier:1:eval/b": 5.0}


def test_user_scalars_evaluation_sets_named_apart() -> None:
    model = nn.Linear(1, 1).eval()
    scalars = started(model)
    for name, value in (("eval/one", 1.0), ("eval/two", 2.0), ("test", 3.0), (None, 4.0), ("eval", 5.0)):
        scalars.add("a", value, 3)
        scalars.end_evaluation(name)
    assert means(scalars, 3) == {"eval/one/a": 1.0, "eval/two/a": 2.0, "test/a": 3.0, "eval/a": 5.0}


def test_user_scalars_two_parts_of_evaluation_one_point() -> None:
    model = nn.Linear(1, 1).eval()
    scalars = started(model)
    for value in (1.0, 3.0):
        scalars.add("a", value, 3)
        scalars.end_evaluation()
    assert means(scalars, 3) == {"eval/a": 2.0}


def test_user_scalars_trained_in_evaluation_mode_counted() -> None:
    """A model with frozen statistics may be in evaluation mode all the time."""
    model = nn.Linear(1, 1).eval()
    scalars = started(model)
    scalars.add("a", 1.0, 0)
    scalars.after_step()
    with torch.no_grad():
        scalars.add("a", 100.0, 1)
    scalars.add("a", 3.0, 1)
    scalars.after_step()
    assert means(scalars, 2) == {"a": 2.0, "earlier:1:eval/a": 100.0}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_user_scalars_wrapped_model_mode_seen(wrap: Any) -> None:
    inner = nn.Linear(1, 1)
    model = wrap(inner)
    scalars = started(model)
    inner.eval()
    scalars.add("a", 1.0, 2)
    scalars.end_evaluation()
    assert means(scalars, 2) == {"eval/a": 1.0}


def test_user_scalars_trainer_says_evaluation_in_training_mode() -> None:
    scalars = started()
    scalars.evaluating = True
    scalars.add("a", 1.0, 2)
    scalars.end_evaluation()
    scalars.add("a", 2.0, 2)
    assert means(scalars, 2, is_last=True) == {"a": 2.0, "eval/a": 1.0}


def test_user_scalars_step_begun_in_evaluation_mode_counted() -> None:
    """A trainer may switch to training mode after the event of a new step. An evaluation in it has no gradients."""
    model = nn.Linear(1, 1).eval()
    scalars = started(model)
    scalars.evaluating = True  # an evaluation that has not reported its end
    scalars.in_step, scalars.evaluating = True, False
    scalars.add("a", 1.0, 1)
    with torch.no_grad():
        scalars.add("a", 100.0, 1)
    model.train()
    scalars.after_step()
    assert means(scalars, 2) == {"a": 1.0, "earlier:1:eval/a": 100.0}


def test_user_scalars_outside_training_keep_their_tag() -> None:
    scalars = UserScalars()
    model = nn.Linear(1, 1).eval()
    scalars.watch(model)
    scalars.add("a", 1.0)
    assert set(scalars.pop_outside_training(5)) == {"a"}


def test_user_scalars_after_last_point_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    scalars = started()
    scalars.add("a", 1.0)
    assert means(scalars, 2) == {"a": 1.0}
    scalars.add("a", 2.0)
    scalars.add("b", 3.0)
    with caplog.at_level(logging.WARNING):
        assert means(scalars, 2, is_last=True) == {"b": 3.0}
    assert caplog.text.count("a is not complete: it was logged after its last point") == 1


@pytest.mark.parametrize(
    ("tag", "name", "expected"),
    [
        ("aux/x", "eval", "eval/aux/x"),
        ("aux/x", "eval/dev", "eval/dev/aux/x"),
        ("aux/x", "test", "test/aux/x"),
        ("eval/x", "eval", "eval/x"),
        ("eval/x", "eval/dev", "eval/dev/x"),
        ("val_x", "eval", "val_x"),
        ("test/x", "test", "test/x"),
    ],
)
def test_evaluation_tag_names_evaluation(tag: str, name: str, expected: str) -> None:
    assert evaluation_tag(tag, name) == expected


def test_user_scalars_bad_tag_or_value_refused() -> None:
    scalars = UserScalars()
    with pytest.raises(ValueError, match="a tag must be made of"):
        scalars.add("my tag", 1.0)
    for several in (torch.ones(2), torch.ones(0), torch.tensor(1j)):
        with pytest.raises(ValueError, match=r"a must be a scalar, got .*; reduce it"):
            scalars.add("a", several)
    wrong: list[Any] = ["3", None, [1.0], np.ones(2), {"a": 1}, object()]
    for value in wrong:
        with pytest.raises(TypeError, match="a must be a number or a tensor with one element, got "):
            scalars.add("a", value)
    with pytest.raises(ValueError, match="a must be a number"):
        scalars.add("a", 10**400)
