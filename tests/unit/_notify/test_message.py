"""Tests the fields and the texts of notifications."""

from __future__ import annotations

import pytest

from tbx_callbacks._notify.message import EVENTS, Message, duration, end, finding, stall


def test_message_as_json_has_documented_fields() -> None:
    message = Message("error", "runs/a", 7, "the loss is NaN", code="TBX-NUM-001", time=1.5)
    assert message.as_json() == {
        "event": "error",
        "run": "runs/a",
        "step": 7,
        "text": "the loss is NaN",
        "severity": "error",
        "code": "TBX-NUM-001",
        "time": 1.5,
    }
    assert message.title == "error TBX-NUM-001: runs/a, step 7"


def test_message_text_is_short_and_printable() -> None:
    text = Message("crash", "runs/a", 1, "\x1b[31m\n" + "x" * 5000).text
    assert text.startswith("?[31m?xxx")
    assert len(text) == 1000


def test_message_of_each_event_has_severity() -> None:
    found = finding("runs/a", 3, "warning", "TBX-LR-001", "high")
    assert found is not None
    assert (found.event, found.severity, found.code) == ("warning", "warning", "TBX-LR-001")
    assert finding("runs/a", 3, "note", "TBX-UPD-007", "uneven") is None
    stalled, ended = stall("runs/a", 3, 100.0, "no step has ended"), end("runs/a", 9)
    assert (stalled.event, stalled.severity, stalled.text) == ("stall", "error", "no step has ended for 100 s")
    assert (ended.event, ended.severity, ended.text) == ("end", "info", "the training has ended after 9 steps")
    assert {found.event, stalled.event, ended.event} < set(EVENTS)


def test_message_end_says_that_it_was_interrupted() -> None:
    message = end("runs/a", 1, is_interrupted=True)
    assert (message.event, message.severity) == ("end", "info")
    assert message.text == "the training was interrupted after 1 step"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("no http://user:pass@word@host:80/a?key=secret why", "no http://host:80/a?... why"),
        ("Error('s3://key:secret@bucket/x')", "Error('s3://bucket/x')"),
        ("postgres://user:secr...", "postgres://..."),
        ("https://host/a@b is gone; ask me@example.com", "https://host/a@b is gone; ask me@example.com"),
    ],
)
def test_message_text_holds_no_secrets_of_urls(text: str, sent: str) -> None:
    assert Message("crash", "runs/a", 1, text).text == sent


@pytest.mark.parametrize(("seconds", "words"), [(90.0, "90 s"), (600.0, "10 min"), (9000.0, "2.5 h")])
def test_duration_has_readable_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words
