"""Builds events of an event file."""

from __future__ import annotations

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary


def scalar_event(step: int, values: int = 20) -> Event:
    """An event with a given number of scalars."""
    return Event(
        step=step, summary=Summary(value=[Summary.Value(tag=f"t{n}", simple_value=1.0) for n in range(values)])
    )
