"""Tests short texts of values, errors and names from outside."""

from __future__ import annotations

import sys

import pytest

from tbx_callbacks._text import count, label, natural_order, printable, reason, short, some, words


class Silent:
    """An object without a text."""

    def __repr__(self) -> str:
        raise SystemExit(3)


class MuteError(Exception):
    """An error without a text."""

    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a" * 200, f"'{'a' * 56}..."),
        ("a" * 10_000_000, f"'{'a' * 56}..."),
        (b"a" * 10_000_000, f"b'{'a' * 55}..."),
        (10**50, str(10**50)),
        (-(10**10_000), "an integer of about 10001 digits"),
        ([10**5000], "[an integer of about 5001 digits]"),
        (nested(100_000), "[[[[[...]]]]]"),
        ({"b": 1, "a": [1, 2]}, "{'b': 1, 'a': [1, 2]}"),
        (dict.fromkeys(range(1000)), "{1000 keys}"),
        ({10**5000: nested(9)}, "{an integer of about 5001 digits: [[[[...]]]]}"),
        (list(range(1_000_000)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16..."),
        (Silent(), "Silent without a text"),
        ([Silent()], "list without a text"),
        (None, "None"),
        (float("nan"), "nan"),
        (frozenset({"a"}), "frozenset({'a'})"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_short_value_cut_before_it_is_text(value: object, text: str) -> None:
    assert short(value) == text


def test_label_name_as_it_is() -> None:
    assert label("grad_norm") == "grad_norm"
    assert label("x" * 10**7) == "x" * 57 + "..."
    assert label(3) == "3"
    assert label(10**5000) == "an integer of about 5001 digits"


def test_reason_error_without_text_named() -> None:
    assert reason(MuteError("x")) == "MuteError without a text"
    assert words(MuteError("x")) == "MuteError without a text"
    assert reason(KeyError("x")) == "KeyError('x')"
    assert words(ValueError("a" * 1000)) == "a" * 397 + "..."


def test_printable_replaces_what_steers_terminal() -> None:
    assert printable("a\x1b[31mb\r\x9b\x00\x7f\u202e\u2066\u200f\ud800\u2028c") == "a?[31mb?????????c"
    assert printable("Größe: 5 µm 日本") == "Größe: 5 µm 日本"
    assert printable("a\nb\t", "\n") == "a\nb?"
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert printable(every).isprintable()


def test_count_has_plural_unless_one() -> None:
    assert [count(number, "layer") for number in (0, 1, 2)] == ["0 layers", "1 layer", "2 layers"]
    assert count(3, "micro-batch") == "3 micro-batches"
    assert count(2, "loss") == "2 losses"


def test_natural_order_numbers_sorted_by_value() -> None:
    names = ["run10", "run2", "run", "run01", "a/b9", "a/b10", "7", "run1", "run" + "9" * 5000, "run1.5"]
    assert sorted(names, key=natural_order)[:-1] == [
        *("7", "a/b9", "a/b10", "run", "run01", "run1", "run1.5", "run2", "run10")
    ]


@pytest.mark.parametrize(
    ("names", "text"),
    [("", ""), ("a", "a"), ("ab", "a, b"), ("abc", "a, b and 1 more run"), ("abcd", "a, b and 2 more runs")],
)
def test_some_further_names_counted(names: str, text: str) -> None:
    assert some([*names], 2, "run") == text
