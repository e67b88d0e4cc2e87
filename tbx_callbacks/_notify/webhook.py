"""Posts a message as JSON to a webhook, with the standard library only."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tbx_callbacks._notify.errors import DeliveryError, why
from tbx_callbacks._notify.message import Message

TIMEOUT = 5.0
"""Seconds without any answer."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect may lead the message, and what its URL grants, to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def post(url: str, message: Message, *, timeout: float = TIMEOUT) -> None:
    """Posts a message, once. A user and a password in the URL are sent as basic authentication.

    Raises:
        DeliveryError: the server does not answer with a status of 200 to 299.
    """
    parts = urlsplit(url)
    headers = {"Content-Type": "application/json", "User-Agent": "tbx-callbacks"}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    body = json.dumps(message.as_json(), allow_nan=False).encode()
    try:
        request = urllib.request.Request(bare, data=body, headers=headers, method="POST")
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout):
            return
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeliveryError(why(error)) from None
    if 300 <= status < 400:
        raise DeliveryError(f"it redirects to another address (HTTP {status})", is_final=True)
    raise DeliveryError(f"HTTP {status}", is_final=status < 500 and status not in (408, 429))
