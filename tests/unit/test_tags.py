"""Tags and the characters that they may hold."""

from __future__ import annotations

import pytest

from tbx_callbacks.tags import check_tag


@pytest.mark.parametrize("tag", ["a b", "", "/a", "a:b", "ü"])
def test_check_tag_illegal_tag_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="a tag must be made of letters"):
        check_tag(tag)
