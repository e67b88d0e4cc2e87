"""Tests the fields of a notification."""

from __future__ import annotations

from tbx_callbacks._notify.message import EVENTS, Message


def test_message_as_json_has_documented_fields() -> None:
    message = Message("error", "runs/a", 7, "the loss is NaN", code="TBX-NAN-001", time=1.5)
    assert message.as_json() == {
        "event": "error",
        "run": "runs/a",
        "step": 7,
        "text": "the loss is NaN",
        "severity": "error",
        "code": "TBX-NAN-001",
        "time": 1.5,
    }
    assert message.title == "error TBX-NAN-001: runs/a, step 7"


def test_events_are_known_ones() -> None:
    assert EVENTS == ("crash", "stall", "end", "error", "warning")
