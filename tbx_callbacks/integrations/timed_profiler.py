"""Defines `TimedProfiler`, which times callbacks, fetches and checkpoints by the actions of Lightning's profiler."""

from __future__ import annotations

from typing import Any

from tbx_callbacks._engine.step_times import StepTimes
from tbx_callbacks.tags import TIME_CALLBACKS, TIME_DATA, TIME_MONITORING, TIME_SAVING


class TimedProfiler:
    """Passes the actions of a Trainer's profiler on to a `StepTimes`, until `remove`; the profiler works as before.

    Args:
        profiler: the Trainer's profiler; also the default one, which does nothing.
        times: receives the actions.
        own_key: the `state_key` of this package's callback.
    """

    def __init__(self, profiler: Any, times: StepTimes, own_key: str) -> None:
        self._profiler, self._times = profiler, times
        self._own = f"[Callback]{own_key}."
        self._start, self._stop = profiler.start, profiler.stop
        self._replaced = {"start": self._on_start, "stop": self._on_stop}
        profiler.__dict__.update(self._replaced)
        times.sees_fetches = True

    def remove(self) -> None:
        """Gives the profiler its own methods back."""
        for name, function in self._replaced.items():
            if self._profiler.__dict__.get(name) == function:
                del self._profiler.__dict__[name]

    def _on_start(self, action_name: str) -> None:
        if part := self._part(action_name):
            self._times.begin(part)
        self._start(action_name)

    def _on_stop(self, action_name: str) -> None:
        self._stop(action_name)
        if part := self._part(action_name):
            self._times.end(part)

    def _part(self, action_name: str) -> str | None:
        if action_name.startswith("[Callback]"):
            return TIME_MONITORING if action_name.startswith(self._own) else TIME_CALLBACKS
        if action_name.endswith("train_dataloader_next"):
            return TIME_DATA
        return TIME_SAVING if action_name == "save_checkpoint" else None
