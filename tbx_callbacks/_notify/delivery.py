"""Sends a message to an address: as JSON to a webhook, as text through apprise otherwise."""

from __future__ import annotations

from tbx_callbacks._notify.address import WEB, Address
from tbx_callbacks._notify.message import Message


def check(address: Address) -> None:
    """Checks that messages can be sent to an address; sends nothing.

    Raises:
        AddressError: a variable is missing, or the URL is invalid.
        DeliveryError: apprise is not installed, or it does not know the URL.
    """
    url = address.expand()
    if not _is_web(url):
        from tbx_callbacks._notify.apprise_sender import load

        load(url)


def deliver(address: Address, message: Message) -> None:
    """Sends a message once.

    Raises:
        AddressError: a variable is missing by now, or the URL is invalid.
        DeliveryError: it has not arrived.
    """
    url = address.expand()
    if _is_web(url):
        from tbx_callbacks._notify.webhook import post

        post(url, message)
    else:
        from tbx_callbacks._notify.apprise_sender import send

        send(url, message)


def _is_web(url: str) -> bool:
    return url.partition("://")[0].lower() in WEB
