"""Tests messages of rank 0 to all ranks."""

from __future__ import annotations

from tbx_callbacks._distributed.rank0_messages import Messages, incoming


def test_messages_sent_together_united() -> None:
    decisions = Messages(0)
    decisions.subscribe("rules", lambda numbers: None)
    decisions.send("rules", {"STOP": 1.0})
    decisions.send("rules", {"CHECKPOINT": 1.0})
    told = incoming({tag: part.maxes for tag, part in decisions.outgoing().items()})
    assert list(told) == [("rules", {"STOP": 1.0, "CHECKPOINT": 1.0})]
