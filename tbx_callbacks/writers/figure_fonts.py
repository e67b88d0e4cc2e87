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

_NO_CHARACTERS: frozenset[int] = frozenset()


@contextmanager
def fonts_of_all_characters(figure: Figure) -> Iterator[None]:
    """Lets matplotlib draw a figure with characters that its own font lacks, from other fonts of this computer.

    A character that no font has is drawn as an empty box; one warning names it and the remedy.
    """
    try:
        has_others = _choose(figure)
    except Exception as error:  # fonts of this computer are no reason to end a training
        _tell_once(repr(error))
        has_others = True
    if not has_others:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # told already
        yield


def _choose(figure: Figure) -> bool:
    """Adds fonts to the texts whose own font lacks characters; returns whether there are any."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    missing: dict[Text, set[int]] = {}
    for text in figure.findobj(Text):
        characters = {ord(char) for char in text.get_text() if char.isprintable()}
        _, own = _read(font_manager.findfont(text.get_fontproperties()))
        if characters - own:
            missing[text] = characters - own
    families = _families(frozenset().union(*missing.values())) if missing else ()
    for text in missing:
        text.set_fontfamily([*text.get_fontfamily(), *families])
    return bool(missing)


@lru_cache(maxsize=64)
def _families(missing: frozenset[int]) -> tuple[str, ...]:
    """The families of installed fonts that together have the characters; a warning names those that none has."""
    from matplotlib import font_manager

    left, found = missing, []
    # Not only the fonts in matplotlib's cache: it does not know those installed after it was written.
    paths = [path for path in font_manager.findSystemFonts() if "lastresort" not in path.lower()]
    for path in sorted(paths, key=lambda path: ("regular" not in path.lower(), path)):
        if not left:
            break
        family, has = _read(path)
        if left & has and _is_known(path):
            found.append(family)
            left -= has
    if left:
        logger.warning(
            "pictures cannot show %s: no installed font has them; install one, such as fonts-noto-cjk for Chinese",
            " ".join(map(chr, sorted(left)[:8])),
        )
    return tuple(found)


@lru_cache(maxsize=8)
def _tell_once(error: str) -> None:
    logger.warning("fonts could not be searched, so pictures may lack characters: %s", error)


@lru_cache(maxsize=8)
def _read(path: str) -> tuple[str, frozenset[int]]:
    """The family and the characters of a font; no characters if matplotlib cannot draw with it."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return font.family_name, frozenset(font.get_charmap()) if font.scalable else _NO_CHARACTERS
    except Exception:
        return "", _NO_CHARACTERS


def _is_known(path: str) -> bool:
    """Whether matplotlib can take the font by its family's name; makes it known."""
    from matplotlib import font_manager

    if path not in {entry.fname for entry in font_manager.fontManager.ttflist}:
        try:
            font_manager.fontManager.addfont(path)
        except Exception:
            return False
    return True
