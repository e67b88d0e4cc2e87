"""From a measured step to the sink: one batch a step, with what the trainer says of the same step."""

from __future__ import annotations

from collections.abc import Mapping

from tbx_callbacks.reduce import Batch, Finished
from tbx_callbacks.sinks import Sink
from tbx_callbacks.values import Facts


class Publisher:
    """Holds a measured step until the trainer has said what it has to say of it."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._held: tuple[int, Batch] | None = None
        self._last: dict[str, tuple[int, Finished]] = {}

    @property
    def holds(self) -> bool:
        """Whether a measured step waits."""
        return self._held is not None

    def last(self, tag: str) -> Finished | None:
        """What was written last under a tag."""
        return self._last.get(tag, (0, None))[1]

    def batch(self, step: int) -> Batch:
        """The batch of a step, to be filled and held; that of an earlier step is published first."""
        if self._held is None or self._held[0] != step:
            self.publish()
            self._held = step, Batch()
        return self._held[1]

    def hold(self, step: int, batch: Batch) -> None:
        """Holds a batch that was filled before its step was finished."""
        self.publish()
        self._held = step, batch

    def publish(self, facts: Facts | None = None) -> None:
        """Hands the held step to the sink. `facts` are numbers that the trainer gave for it, as `clip_factor`."""
        if self._held is not None:
            (step, batch), self._held = self._held, None
            self.write(step, batch.numbers(facts or {}))

    def publish_with(self, step: int, numbers: Mapping[str, Finished], facts: Facts | None = None) -> None:
        """Hands numbers of a step to the sink, together with the held step if it is the same."""
        measured: dict[str, Finished] = {}
        if self._held is not None and self._held[0] == step:
            measured, self._held = self._held[1].numbers(facts or {}), None
        self.publish()
        self.write(step, {**measured, **numbers})

    def write(self, step: int, values: Mapping[str, Finished]) -> None:
        """Writes a batch, less what was written of this step before: the trainer logs some numbers (epoch) twice."""
        new = {tag: value for tag, value in values.items() if self._last.get(tag) != (step, value)}
        self._last.update({tag: (step, value) for tag, value in new.items()})
        if new:
            self.sink.write(step, new)
