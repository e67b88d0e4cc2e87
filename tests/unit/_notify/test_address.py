"""Tests addresses: variables, and that a secret is never shown."""

from __future__ import annotations

import copy
import pickle

import pytest

from tbx_callbacks._notify.address import Address, AddressError
from tests.helpers.web_server import SECRET

SHOWN = {
    "${HOOK}": "${HOOK}",
    f"${{HOOK}}/{SECRET}": "${HOOK}",
    f"https://user:{SECRET}@example.com:8443/a/{SECRET}?k={SECRET}": "https://example.com:8443",
    f"https://{SECRET}@example.com/": "https://example.com",
    f"https://${{USER}}:${{PASSWORD}}@example.com/{SECRET}": "https://example.com",
    f"slack://{SECRET}/{SECRET}/{SECRET}": "slack://...",
    f"tgram://{SECRET}/1": "tgram://...",
    f"mailto://me:{SECRET}@example.com": "mailto://...",
}


@pytest.mark.parametrize("text", SHOWN)
def test_address_shows_scheme_and_host_only(text: str) -> None:
    address = Address(text)
    assert address.shown == SHOWN[text]
    assert SECRET not in repr(address) + str(address) + repr([address]) + f"{address}"


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_address_copy_equals_original(clone: object) -> None:
    address = Address("https://${HOST}/x")
    assert clone(address) == address  # type: ignore[operator]


def test_address_expands_variables_of_environment() -> None:
    address = Address("https://${USER_1}:${TOKEN}@example.com/${TOKEN}")
    assert address.variables == ("USER_1", "TOKEN")
    assert address.expand({"USER_1": "me", "TOKEN": " x \n"}) == "https://me:x@example.com/x"
    assert Address("${A}").expand({"A": "slack://a/b/c"}) == "slack://a/b/c"


WRONG = {
    "": "got nothing",
    f"{SECRET}": "without scheme",
    "SLACK_WEBHOOK": "without scheme",
    f"https:///{SECRET}": "without a host",
    f"https://host:{SECRET}/": "wrong port",
    f"https://[{SECRET}/": "without a host",
    f"https://host/ {SECRET}": "a space",
    f"https://host/\n{SECRET}": "control character",
    f"$HOOK/{SECRET}": r"as \${NAME}",
    f"${{A-B}}{SECRET}": r"as \${NAME}",
    "https://host/" + "x" * 5000: "got str",
}


@pytest.mark.parametrize("text", WRONG)
def test_address_error_tells_rule_without_secret(text: str) -> None:
    with pytest.raises(AddressError, match=WRONG[text]) as caught:
        Address(text)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_address_wrong_type_named() -> None:
    with pytest.raises(AddressError, match="got int"):
        Address(3)  # type: ignore[arg-type]


def test_expand_missing_variable_named() -> None:
    address = Address(f"https://host/${{GONE}}/${{EMPTY}}/{SECRET}")
    with pytest.raises(AddressError, match="got GONE and EMPTY, which is not set; export") as caught:
        address.expand({"EMPTY": ""})
    assert SECRET not in str(caught.value)


def test_expand_to_no_url_shows_no_value() -> None:
    with pytest.raises(AddressError, match="without scheme") as caught:
        Address("${HOOK}").expand({"HOOK": SECRET})
    assert SECRET not in str(caught.value)
