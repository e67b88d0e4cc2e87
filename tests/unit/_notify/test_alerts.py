"""Tests which notifications a run sends to whom."""

from __future__ import annotations

import pytest

from tbx_callbacks._notify.address import Address
from tbx_callbacks._notify.alerts import MOST, Alerts, Target, duration
from tests.helpers.web_server import receiving


def test_alerts_each_target_gets_its_events() -> None:
    with receiving() as all_events, receiving() as chosen:
        targets = [Target(Address(all_events.url)), Target(Address(chosen.url), ("stall", "error"))]
        alerts = Alerts(targets, "runs/a")
        alerts.finding(1, "error", "TBX-NAN-001", "NaN")
        alerts.finding(2, "warning", "TBX-LR-001", "high")
        alerts.finding(3, "note", "TBX-UPD-007", "uneven")
        alerts.stall(4, 100.0)
        alerts.crash(5, "ValueError('x')")
        alerts.end(6)
        alerts.close(60.0)
    assert all_events.events == ["error", "warning", "stall", "crash", "end"]
    assert [body["severity"] for body in all_events.bodies] == ["error", "warning", "error", "error", "info"]
    assert chosen.events == ["error", "stall"]
    assert chosen.bodies[1]["text"] == "no step has ended for 100 s"


def test_alerts_findings_limited_end_always_sent() -> None:
    with receiving() as receiver:
        alerts = Alerts([Target(Address(receiver.url))], "runs/a")
        for step in range(30):
            alerts.finding(step, "warning", "TBX-LR-001", "high\x1b\n" + "x" * 5000)
        alerts.end(30)
        alerts.close(60.0)
    assert receiver.events == ["warning"] * MOST + ["end"]
    assert receiver.bodies[MOST - 1]["text"].endswith("(further findings and stalls of this run are not sent)")
    assert max(len(body["text"]) for body in receiver.bodies) < 1100
    assert all(body["text"].isprintable() for body in receiver.bodies)


@pytest.mark.parametrize(("seconds", "words"), [(90.0, "90 s"), (600.0, "10 min"), (9000.0, "2.5 h")])
def test_duration_has_readable_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words
