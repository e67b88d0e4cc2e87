"""Finds installed fonts for characters that matplotlib's own font does not have, such as Chinese ones."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


@contextmanager
def fonts_of_all_characters(figure: Figure) -> Iterator[None]:
    """Lets matplotlib draw a figure with characters that its own font lacks, from other fonts of this computer.

    A character that no font has is drawn as an empty box; one warning names it and the remedy.
    """
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    families = _families(frozenset(ord(char) for text in texts for char in text.get_text() if char.isprintable()))
    if len(families) > 1:
        for text in texts:
            text.set_fontfamily(families)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # `_families` has told it
        yield


@lru_cache(maxsize=64)
def _families(characters: frozenset[int]) -> list[str]:
    from matplotlib import font_manager, rcParams

    left = characters - _characters_of(font_manager.findfont(font_manager.FontProperties()))
    found = list(rcParams["font.family"])
    # Not only the fonts in matplotlib's cache: it does not know those installed after it was written.
    fonts = font_manager.findSystemFonts() if left else []
    for path in sorted(fonts, key=lambda path: ("regular" not in path.lower(), path)):
        if left & (has := _characters_of(path)):
            found.append(_family(path))
            left -= has
        if not left:
            break
    if left:
        logger.warning(
            "pictures cannot show %s: no installed font has them; install one, such as fonts-noto-cjk for Chinese",
            " ".join(map(chr, sorted(left)[:8])),
        )
    return found


def _characters_of(path: str) -> frozenset[int]:
    """The characters of a font; none if matplotlib cannot read it."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _family(path: str) -> str:
    """The name of a font's family, which matplotlib then knows."""
    from matplotlib import font_manager

    known = {entry.fname: entry.name for entry in font_manager.fontManager.ttflist}
    if path not in known:
        font_manager.fontManager.addfont(path)
        known = {entry.fname: entry.name for entry in font_manager.fontManager.ttflist}
    return str(known[path])
