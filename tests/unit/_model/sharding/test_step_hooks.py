"""Tests that the steps of all optimizers are reported, and that neither errors nor `torch.compile` notice the hooks."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.optim import optimizer as torch_optimizer

from tbx_callbacks._model.sharding.base import Closure
from tbx_callbacks._model.sharding.step_hooks import StepHooks


class Recorder:
    """Receives the events of the steps of known optimizers."""

    watches_steps = False

    def __init__(self, **known: torch.optim.Optimizer) -> None:
        self.known, self.events, self.errors = known, list[tuple[Any, ...]](), list[Exception]()
        self.replacement: Closure | None = None
        self.due: list[str] = ["a metric"]

    def name_of(self, optimizer: torch.optim.Optimizer) -> str | None:
        return next((name for name, known in self.known.items() if known is optimizer), None)

    def before_clip(self, *_: object) -> None: ...

    def record_clipping(self, *_: object) -> None: ...

    def before_step(self, name: str, closure: Closure | None) -> Closure | None:
        self.events.append(("before", name, closure is not None))
        return self.replacement if closure is not None else None

    def after_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        self.events.append(("after", name))

    def report(self, error: Exception) -> None:
        self.errors.append(error)


def trained() -> tuple[nn.Linear, torch.optim.Optimizer]:
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def num_hooks() -> int:
    gc.collect()  # recorders that other tests have dropped
    StepHooks(Recorder()).remove()
    return len(torch_optimizer._global_optimizer_pre_hooks) + len(torch_optimizer._global_optimizer_post_hooks)


def test_step_hooks_known_optimizers_reported_until_removed() -> None:
    (_, first), (_, second), (_, stranger) = trained(), trained(), trained()
    recorder = Recorder(A=first)
    hooks = StepHooks(recorder)
    first.step()
    stranger.step()
    recorder.known["B"] = second
    second.step(lambda: 0.0)
    hooks.remove()
    first.step()
    assert recorder.events == [("before", "A", False), ("after", "A"), ("before", "B", True), ("after", "B")]


def test_step_hooks_quiet_step_only_end_reported() -> None:
    _, optimizer = trained()
    recorder = Recorder(A=optimizer)
    recorder.due = []
    hooks = StepHooks(recorder)
    optimizer.step()
    hooks.remove()
    assert recorder.events == [("after", "A")]


@pytest.mark.parametrize("call", [lambda step, closure: step(closure), lambda step, closure: step(closure=closure)])
def test_step_hooks_replaced_closure_called(call: Callable[..., Any]) -> None:
    _, optimizer = trained()
    recorder = Recorder(A=optimizer)
    recorder.replacement = lambda: 5.0
    hooks = StepHooks(recorder)
    assert call(optimizer.step, lambda: 1.0) == 5.0
    hooks.remove()


def test_step_hooks_removed_inside_hook_gone_later() -> None:
    _, optimizer = trained()
    before = num_hooks()
    recorder = Recorder(A=optimizer)
    hooks, later = StepHooks(recorder), StepHooks(recorder)
    recorder.after_step = lambda *_: hooks.remove()  # type: ignore[method-assign]
    optimizer.step()
    later.remove()
    assert num_hooks() == before


def test_step_hooks_dropped_recorder_leaves_nothing() -> None:
    _, optimizer = trained()
    before = num_hooks()
    StepHooks(Recorder(A=optimizer))
    optimizer.step()
    assert num_hooks() == before


def test_step_hooks_error_reported_not_raised() -> None:
    _, optimizer = trained()
    recorder = Recorder(A=optimizer)
    recorder.before_step = recorder.after_step = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]
    hooks = StepHooks(recorder)
    optimizer.step()
    hooks.remove()
    assert [type(error) for error in recorder.errors] == [ZeroDivisionError] * 2


@pytest.mark.filterwarnings("ignore")  # dynamo warns of record_function in torch's own step
@pytest.mark.parametrize("whole", [False, True])
def test_step_hooks_compiled_step_same_graphs(whole: bool) -> None:
    graphs = []
    for is_hooked in (False, True):
        torch._dynamo.reset()
        counters.clear()
        model, optimizer = trained()
        recorder = Recorder(A=optimizer)
        hooks = StepHooks(recorder) if is_hooked else None

        def train(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        step = torch.compile(train if whole else optimizer.step, backend="eager")
        for _ in range(3):
            step()
        graphs.append(counters["stats"]["unique_graphs"])
        if hooks is not None:
            hooks.remove()
            assert recorder.events == [("before", "A", False), ("after", "A")] * 3
    assert graphs[0] == graphs[1] > 0
