"""Tests the sentences about invalid values."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from tbx_callbacks._config.validation import Model, Must, SpecError, validate


class Inner(Model):
    size: Annotated[int, Must("a size", "leave it out")] = 1


class Outer(Model):
    number: float = 1.0
    many: list[Annotated[int | str, Must("a number or a word")]] = []  # noqa: RUF012
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"numbr": 3},
            ".numbr must be a known option, got 'numbr'; did you mean 'number'? known options: number, many",
        ),
        ({"number": "x"}, ".number must be a valid number, got 'x'"),
        ({"many": [1, "a", None]}, ".many[2] must be a number or a word, got None"),
        ({"inner": {"size": "x"}}, ".inner.size must be a size, got 'x'; leave it out"),
    ],
)
def test_validate_mistake_names_place(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as raised:
        validate(Outer, options)
    assert str(raised.value).startswith(message)


def test_validate_returns_given_options_only() -> None:
    assert validate(Outer, {"number": 2}) == {"number": 2.0}
