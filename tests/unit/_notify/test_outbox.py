"""Tests the queue of messages to one address: attempts, warnings, forks, and that nothing waits for a server."""

from __future__ import annotations

import os
import threading
import warnings

import pytest

from tbx_callbacks._notify.address import Address
from tbx_callbacks._notify.message import Message
from tbx_callbacks._notify.outbox import Outbox
from tests.helpers.web_server import SECRET, receiving

LONG = 60.0  # seconds; no test needs so many


def message(step: int = 1) -> Message:
    return Message("error", "runs/a", step, "text")


def test_outbox_sends_messages_in_order() -> None:
    with receiving() as receiver:
        outbox = Outbox(Address(receiver.url))
        for step in range(5):
            outbox.post(message(step))
        outbox.close()
        outbox.post(message(9))  # too late
        assert outbox.wait(LONG)
    assert [body["step"] for body in receiver.bodies] == [0, 1, 2, 3, 4]


def test_outbox_tries_again_after_failure(caplog: pytest.LogCaptureFixture) -> None:
    with receiving(500, "garbage", 200) as receiver:
        outbox = Outbox(Address(receiver.url), pauses=(0.01, 0.01))
        outbox.post(message())
        assert outbox.wait(LONG)
        outbox.close()
    assert len(receiver.bodies) == 3
    assert caplog.messages == []


def test_outbox_lost_messages_cost_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with receiving(500) as receiver:
        outbox = Outbox(Address(receiver.url), pauses=(0.01, 0.01))
        for step in range(3):
            outbox.post(message(step))
        outbox.close()
        assert outbox.wait(LONG)
        assert len(receiver.bodies) == 9
        host = receiver.address
    assert caplog.messages == [f"notifications to {host} are lost: HTTP 500; check the address and its server"]
    assert SECRET not in caplog.text


def test_outbox_final_failure_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with receiving(302) as receiver:
        outbox = Outbox(Address(receiver.url))
        outbox.post(message())
        assert outbox.wait(LONG)
        outbox.close()
    assert len(receiver.bodies) == 1
    assert "it redirects to another address (HTTP 302)" in caplog.text


def test_outbox_hanging_send_blocks_nobody(caplog: pytest.LogCaptureFixture) -> None:
    hanging, sent = threading.Event(), list[Message]()

    def send(_: Address, each: Message) -> None:
        hanging.wait()
        sent.append(each)

    outbox = Outbox(Address("https://example.com"), send=send)
    for step in range(200):
        outbox.post(message(step))
    assert not outbox.wait(0.01)
    outbox.close()
    hanging.set()
    assert outbox.wait(LONG)
    assert len(sent) <= 51  # the oldest ones are dropped
    assert sent[-1].step == 199
    assert caplog.messages == [
        "notifications to https://example.com are lost: too many messages wait; check the address and its server"
    ]


def test_outbox_unexpected_error_shown_by_type(caplog: pytest.LogCaptureFixture) -> None:
    def send(_: Address, each: Message) -> None:
        raise SystemExit(SECRET)

    outbox = Outbox(Address("https://example.com"), send=send)
    outbox.post(message())
    assert outbox.wait(LONG)
    outbox.close()
    assert ": SystemExit;" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_outbox_in_forked_child_sends_nothing() -> None:
    with receiving() as receiver:
        outbox = Outbox(Address(receiver.url))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads and a fork
            child = os.fork()
        if child == 0:
            outbox.post(message(7))
            outbox.close()
            os._exit(0 if outbox.wait(0.0) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        outbox.post(message(1))
        assert outbox.wait(LONG)
        outbox.close()
    assert [body["step"] for body in receiver.bodies] == [1]
