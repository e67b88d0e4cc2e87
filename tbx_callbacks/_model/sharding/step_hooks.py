"""Defines `StepHooks`, which reports the steps of all optimizers, also of those that are created later."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tbx_callbacks._model.sharding.base import Closure, StepEvents


class StepHooks:
    """Handle of torch's global step hooks, which fire for every optimizer: one may be replaced during a training.

    The hooks hold `events` weakly. `torch.compile` does not trace them, so it compiles the same graphs with them.

    Args:
        events: receives the steps.
    """

    _running = 0  # hooks of any session in progress; torch iterates over its hooks then, so that none may be removed
    _removed: list[Any] = []  # noqa: RUF012 - handles to remove once no hook runs

    def __init__(self, events: StepEvents) -> None:
        self._events: weakref.ref[StepEvents] | None = weakref.ref(events)
        self._last: torch.optim.Optimizer | None = None  # the optimizer that stepped last, and its name: a quick look
        self._last_name: str | None = None
        self._discard()
        before, after = _untraced(self._before), _untraced(self._after)
        self._handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
        weakref.finalize(events, StepHooks._discard, self._handles).atexit = False

    def remove(self) -> None:
        """Removes the hooks; inside a hook, they do nothing from now on and are removed later."""
        self._events = self._last = None
        handles, self._handles = self._handles, []
        self._discard(handles)

    @staticmethod
    def _discard(handles: Sequence[Any] = ()) -> None:
        StepHooks._removed.extend(handles)
        while StepHooks._removed and not StepHooks._running:
            StepHooks._removed.pop().remove()

    def _before(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        events = None if self._events is None else self._events()
        if events is None or not (events.due or events.watches_steps):
            return None
        StepHooks._running += 1
        try:
            if optimizer is not self._last:
                self._last, self._last_name = optimizer, events.name_of(optimizer)
            name = self._last_name
            if name is None:
                return None
            closure = _closure_in(args, kwargs) if kwargs or len(args) > 1 else None
            replaced = events.before_step(name, closure)
            return None if replaced is None or closure is None else _replace(args, kwargs, closure, replaced)
        except Exception as error:
            events.report(error)
            return None
        finally:
            StepHooks._running -= 1

    def _after(self, optimizer: torch.optim.Optimizer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        events = None if self._events is None else self._events()
        if events is None:
            return
        StepHooks._running += 1
        try:
            if optimizer is not self._last or self._last_name is None:
                self._last, self._last_name = optimizer, events.name_of(optimizer)
            if self._last_name is not None:
                events.after_step(self._last_name, optimizer)
        except Exception as error:
            events.report(error)
        finally:
            StepHooks._running -= 1


def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a hook that calls a function, and that `torch.compile` traces as little as what the function calls.

    The wrapper of `torch._dynamo.disable` costs some microseconds. Only a compiled region needs it.
    """
    disabled: Callable[..., Any] = torch._dynamo.disable(function)
    get_callback = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", None)
    skip = getattr(torch._dynamo.decorators, "skip", None)
    if get_callback is None or skip is None:  # another torch
        return disabled

    def hook(*arguments: Any) -> Any:
        return function(*arguments) if get_callback() is None else disabled(*arguments)

    skipped: Callable[..., Any] = skip(hook)
    return skipped


def _closure_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Closure | None:
    """Returns the closure among the arguments of `step`; the first argument is the optimizer."""
    for value in (*args[1:], *kwargs.values()):
        if callable(value):
            found: Closure = value
            return found
    return None


def _replace(
    args: Sequence[Any], kwargs: Mapping[str, Any], closure: Closure, replaced: Closure
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (
        tuple(replaced if value is closure else value for value in args),
        {name: replaced if value is closure else value for name, value in kwargs.items()},
    )
