"""Tests that errors of the network are described without their text."""

from __future__ import annotations

import socket
import urllib.error

import pytest

from tbx_callbacks._notify.errors import why
from tests.helpers.web_server import SECRET

CASES = [
    (TimeoutError(SECRET), "no answer in time"),
    (urllib.error.URLError(TimeoutError(SECRET)), "no answer in time"),
    (urllib.error.URLError(socket.gaierror(-2, SECRET)), "the host is unknown"),
    (ConnectionRefusedError(SECRET), "connection refused"),
    (urllib.error.URLError(SECRET), "URLError"),
    (ValueError(SECRET), "ValueError"),
]


@pytest.mark.parametrize(("error", "words"), CASES, ids=[words for _, words in CASES])
def test_why_describes_error_by_its_kind(error: Exception, words: str) -> None:
    assert why(error) == words
