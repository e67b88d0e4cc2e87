"""Tests the webhook against a real server that answers well, badly, late or never."""

from __future__ import annotations

import base64
import socket

import pytest

from tbx_callbacks._notify.errors import DeliveryError
from tbx_callbacks._notify.message import Message
from tbx_callbacks._notify.webhook import post
from tests.helpers.web_server import SECRET, receiving

MESSAGE = Message("crash", "runs/ä", 3, 'it "failed"\n\x1b[31m')


def test_post_sends_message_as_json() -> None:
    with receiving(204) as receiver:
        post(receiver.url, MESSAGE)
    assert receiver.bodies == [MESSAGE.as_json()]
    assert receiver.paths == [f"/hook/{SECRET}?key={SECRET}"]
    assert receiver.headers[0]["Content-Type"] == "application/json"


def test_post_sends_login_of_url_as_header() -> None:
    with receiving() as receiver:
        post(receiver.url.replace("http://", f"http://me:p%40{SECRET}@") + "#part", MESSAGE)
    (header,) = (headers["Authorization"] for headers in receiver.headers)
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == f"me:p@{SECRET}"


@pytest.mark.parametrize(
    ("answer", "why", "is_final"),
    [
        (500, "HTTP 500", False),
        (429, "HTTP 429", False),
        (404, "HTTP 404", True),
        (302, "it redirects to another address .HTTP 302.", True),
        (307, "it redirects to another address .HTTP 307.", True),
        ("garbage", "BadStatusLine", False),
        ("hang", "no answer in time", False),
    ],
)
def test_post_bad_answer_raises_without_url(answer: int | str, why: str, is_final: bool) -> None:
    with receiving(answer) as receiver:
        with pytest.raises(DeliveryError, match=f"^{why}$") as caught:
            post(receiver.url, MESSAGE, timeout=0.3 if answer == "hang" else 30)
        assert len(receiver.bodies) == 1  # a redirect is not followed
    assert caught.value.is_final == is_final
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_post_refused_connection_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        with pytest.raises(DeliveryError, match=r"^connection refused$"):
            post(f"http://127.0.0.1:{taken.getsockname()[1]}/{SECRET}", MESSAGE)


def test_post_unknown_host_named() -> None:
    with pytest.raises(DeliveryError, match=r"unknown|in time"):
        post(f"http://no-such-host.invalid/{SECRET}", MESSAGE)


def test_post_unusable_url_shows_no_part_of_it() -> None:
    with pytest.raises(DeliveryError, match=r"^[A-Za-z]+$"):
        post(f"http://host/ä {SECRET}", MESSAGE)
