"""Defines `Address`, a URL of notifications whose secrets stay in the environment and are never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LONGEST = 4000  # characters
WEB = ("http", "https")
"""The schemes of plain webhooks; apprise sends to all others."""
_FORM = "a URL such as https://example.com/hook, or ${NAME} for one in the environment"


class AddressError(ValueError):
    """An address cannot be used. The message never contains the address: it may hold a token."""


@dataclass(frozen=True, repr=False)
class Address:
    """A URL, perhaps with `${NAME}` for variables of the environment; they are expanded at each sending only.

    Args:
        text: the URL as the user has written it.

    Raises:
        AddressError: it is no URL.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text or len(self.text) > _LONGEST:
            raise AddressError(f"must be {_FORM}, got {type(self.text).__name__ if self.text else 'nothing'}")
        if "$" in _VARIABLE.sub("", self.text):
            raise AddressError("must name variables as ${NAME}, got another $; write %24 for a $ of the URL itself")
        if not self.text.startswith("${"):
            _check_url(_VARIABLE.sub("x", self.text))

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"

    @property
    def shown(self) -> str:
        """The scheme, and the host of a webhook; other schemes have tokens where URLs have a host."""
        if self.text.startswith("${"):
            return f"{self.text.partition('}')[0]}}}"
        scheme = self.text.partition("://")[0].lower()
        host = _host(self.text) if scheme in WEB else None
        return f"{scheme}://{host}" if host else f"{scheme}://..."

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the variables."""
        return tuple(dict.fromkeys(_VARIABLE.findall(self.text)))

    def expand(self, environment: Mapping[str, str] | None = None) -> str:
        """Returns the URL with the values of the variables.

        Raises:
            AddressError: a variable is missing or empty, or the result is no URL.
        """
        environment = os.environ if environment is None else environment
        if missing := [name for name in self.variables if not environment.get(name)]:
            names = " and ".join(missing)
            raise AddressError(f"must name variables of the environment, got {names}, which is not set; export {names}")
        url = _VARIABLE.sub(lambda match: environment[match[1]].strip(), self.text)
        _check_url(url)
        return url


def _check_url(url: str) -> None:
    scheme = _SCHEME.match(url)
    if scheme is None or not url[scheme.end() :]:
        raise AddressError(f"must be {_FORM}, got a text without scheme://")
    if not url.isprintable() or " " in url:
        raise AddressError(f"must be {_FORM}, got one with a space or a control character")
    if scheme[1].lower() in WEB and not _host(url):
        raise AddressError(f"must be {_FORM}, got one without a host, or with a wrong port")


def _host(url: str) -> str | None:
    """The host of a URL, with its port; None if it cannot be parsed."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, None if "${" in parts.netloc else parts.port
    except ValueError:
        return None
    return host if not host or port is None else f"{host}:{port}"
