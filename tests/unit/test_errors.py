"""Tests how errors of other people's code are described."""

from __future__ import annotations

import pytest

from tbx_callbacks._errors import described


class BadReprError(Exception):
    def __repr__(self) -> str:
        raise SystemExit(3)


class NoTextError(Exception):
    def __repr__(self) -> str:
        return 5  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no"), "ValueError('no')"),
        (SystemExit(3), "SystemExit(3)"),
        (BadReprError(), "BadReprError (its text cannot be shown)"),
        (NoTextError(), "NoTextError (its text cannot be shown)"),
        (ValueError("x" * 1000), "ValueError('" + "x" * 285 + "..."),
        (KeyError("\x1b[31mred"), r"KeyError('\x1b[31mred')"),
    ],
)
def test_described_one_line_of_limited_length(error: BaseException, expected: str) -> None:
    assert described(error) == expected


def test_described_own_repr_without_control_characters() -> None:
    class ColourfulError(Exception):
        def __repr__(self) -> str:
            return "a\x1b[31m\nb\u202ec"

    assert described(ColourfulError()) == r"a\x1b[31m\nb\u202ec"
