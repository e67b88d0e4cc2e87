"""Tests messages through apprise, to a real server."""

from __future__ import annotations

import logging
import sys

import pytest

from tbx_callbacks._notify.apprise_sender import load, send
from tbx_callbacks._notify.errors import DeliveryError
from tbx_callbacks._notify.message import Message
from tests.helpers.web_server import SECRET, receiving

MESSAGE = Message("error", "runs/a", 3, "the loss is NaN", code="TBX-NAN-001")


def test_load_without_apprise_names_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(DeliveryError, match=r'pip install "tbx-callbacks\[notify\]"'):
        load(f"slack://{SECRET}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of apprise's own code
def test_load_unknown_service_logs_no_url(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("apprise")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(DeliveryError, match="does not know such a URL"):
        load(f"nosuchservice://{SECRET}")
    assert SECRET not in caplog.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_send_delivers_title_and_text(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("apprise")
    caplog.set_level(logging.DEBUG)
    with receiving(200, 500) as receiver:
        url = f"json://{receiver.address.removeprefix('http://')}/{SECRET}"
        # apprise's own JSON has other fields than the plain webhook
        send(url, MESSAGE)
        with pytest.raises(DeliveryError, match="has not accepted"):
            send(url, MESSAGE)
    assert receiver.bodies[0]["title"] == "error TBX-NAN-001: runs/a, step 3"
    assert receiver.bodies[0]["message"] == "the loss is NaN"
    assert receiver.bodies[0]["type"] == "failure"
    assert SECRET not in caplog.text


def test_send_failing_apprise_shows_type_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def add(self, url: str) -> bool:
            raise RuntimeError(url)

    monkeypatch.setitem(sys.modules, "apprise", type("apprise", (), {"Apprise": Broken}))
    with pytest.raises(DeliveryError, match=r"^apprise failed with RuntimeError$") as caught:
        send(f"slack://{SECRET}", MESSAGE)
    assert caught.value.__suppress_context__
