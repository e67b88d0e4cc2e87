"""Tests tags and their legal characters."""

from __future__ import annotations

import pytest

from tbx_callbacks.tags import check_tag, clean, larger_is_better


@pytest.mark.parametrize("tag", ["a b", "", "/a", "a:b", "ü"])
def test_check_tag_illegal_tag_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="a tag must be made of letters"):
        check_tag(tag)


@pytest.mark.parametrize("tag", ["a", "train/loss", "a-b_c.0/D9"])
def test_check_tag_legal_tag_returned(tag: str) -> None:
    assert check_tag(tag) == tag == clean(tag)


def test_clean_replaces_illegal_characters() -> None:
    assert clean("F1 (macro) %/ü") == "F1__macro___/_"


@pytest.mark.parametrize(
    ("tag", "larger"),
    [
        ("eval/loss", False),
        ("eval/mlm_loss", False),
        ("eval/wer", False),
        ("eval/accuracy", True),
        ("eval/gloss", True),
    ],
)
def test_larger_is_better_by_name(tag: str, larger: bool) -> None:
    assert larger_is_better(tag) is larger
