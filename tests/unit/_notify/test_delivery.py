"""Tests that an address decides how a message is sent."""

from __future__ import annotations

import sys

import pytest

from tbx_callbacks._notify.address import Address, AddressError
from tbx_callbacks._notify.delivery import check, deliver
from tbx_callbacks._notify.errors import DeliveryError
from tbx_callbacks._notify.message import Message
from tests.helpers.web_server import receiving

MESSAGE = Message("end", "runs/a", 3, "done", severity="info")


def test_deliver_expands_address_at_each_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address("${TBX_TEST_HOOK}")
    with receiving() as receiver:
        monkeypatch.setenv("TBX_TEST_HOOK", receiver.url)
        check(address)  # sends nothing
        assert receiver.bodies == []
        deliver(address, MESSAGE)
        monkeypatch.delenv("TBX_TEST_HOOK")
        with pytest.raises(AddressError, match="TBX_TEST_HOOK"):
            deliver(address, MESSAGE)
    assert receiver.events == ["end"]


def test_check_other_scheme_needs_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    for call in (lambda: check(Address("slack://a/b/c")), lambda: deliver(Address("slack://a/b/c"), MESSAGE)):
        with pytest.raises(DeliveryError, match="needs apprise"):
            call()
    check(Address("HTTPS://example.com"))
