"""Tests which messages go to whom, and how many."""

from __future__ import annotations

import pytest

from tbx_callbacks._notify.address import Address
from tbx_callbacks._notify.alerts import MOST, Alerts, Target
from tbx_callbacks._notify.message import EVENTS, Message
from tests.helpers.web_server import SECRET, receiving


def test_alerts_each_target_gets_its_events() -> None:
    with receiving() as all_events, receiving() as chosen:
        alerts = Alerts([Target(Address(all_events.url)), Target(Address(chosen.url), ("stall", "error"))])
        for event in EVENTS:
            alerts.post(Message(event, "runs/a", 1, "text"))
        alerts.close(60.0)
    assert all_events.events == list(EVENTS)
    assert chosen.events == ["stall", "error"]


def test_alerts_findings_limited_end_always_sent() -> None:
    with receiving() as receiver:
        alerts = Alerts([Target(Address(receiver.url))])
        for step in range(30):
            alerts.post(Message(("warning", "stall")[step % 2], "runs/a", step, "text"))
        for event in ("crash", "end"):
            alerts.post(Message(event, "runs/a", 30, "text"))
        alerts.post(Message("error", "runs/b", 1, "text"))  # each run has its own limit
        alerts.close(60.0)
    assert receiver.events == ["warning", "stall"] * (MOST // 2) + ["crash", "end", "error"]
    texts = [body["text"] for body in receiver.bodies]
    assert texts[MOST - 1] == "further findings and stalls of this run are not sent; text"
    assert texts.count("text") == MOST + 2


@pytest.mark.parametrize("answer", ["hang", 500])
def test_alerts_messages_left_cost_one_warning(answer: int | str, caplog: pytest.LogCaptureFixture) -> None:
    with receiving(answer) as receiver:
        alerts = Alerts([Target(Address(receiver.url))])
        alerts.post(Message("end", "runs/a", 1, "text"))
        alerts.close(0.05)
        (warning,) = caplog.messages
    assert warning.startswith(f"notifications to {receiver.address} are lost: 1 message has not arrived at the end (")
    assert warning.endswith("; check the address and its server")
    assert SECRET not in warning
