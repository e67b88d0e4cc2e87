"""Tests messages of rank 0 to all ranks."""

from __future__ import annotations

from tbx_callbacks._distributed.rank0_messages import Messages, incoming


def test_messages_sent_together_united() -> None:
    messages = Messages(0)
    messages.subscribe("rules", lambda numbers: None)
    messages.send("rules", {"STOP": 1.0})
    messages.send("rules", {"CHECKPOINT": 1.0})
    received = incoming({tag: part.maxes for tag, part in messages.outgoing().items()})
    assert list(received) == [("rules", {"STOP": 1.0, "CHECKPOINT": 1.0})]
