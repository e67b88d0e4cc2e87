"""Tests that pictures show characters that matplotlib's own font does not have."""

from __future__ import annotations

import shutil
import warnings
from io import BytesIO
from pathlib import Path

import pytest

from tbx_callbacks.writers import figure_fonts
from tbx_callbacks.writers.summary_writer import SummaryWriter

pytest.importorskip("matplotlib")

from matplotlib import font_manager, get_data_path
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

OTHER = Path(get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    figure_fonts._families.cache_clear()
    figure_fonts._tell_once.cache_clear()


def only_in_other_font() -> str:
    usual = FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return next(chr(code) for code in FT2Font(OTHER).get_charmap() if code not in usual and chr(code).isprintable())


def titled(text: str) -> Figure:
    figure = Figure()
    figure.subplots().set_title(text)
    return figure


def picture(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="rgba")
    return file.getvalue()


def drawn(figure: Figure) -> bytes:
    with figure_fonts.fonts_of_all_characters(figure):
        return picture(figure)


def test_character_drawn_with_font_that_has_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(OTHER)])
    char = only_in_other_font()
    explicit = titled("a" + char)
    explicit.axes[0].title.set_fontfamily(["sans-serif", "STIXGeneral"])
    assert drawn(titled("a" + char)) == picture(explicit)
    assert caplog.text == ""


def test_character_without_font_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(2):
            drawn(titled(f"好评 {number}"))  # other digits, as in the matrix of each evaluation
    assert [record.getMessage() for record in caplog.records] == [
        "pictures cannot show 好 评: no installed font has them; install one, such as fonts-noto-cjk for Chinese"
    ]


def test_usual_characters_leave_fonts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("no font was missing"))
    figure = titled("loss: é 0.5")
    before = figure.axes[0].title.get_fontfamily()
    drawn(figure)
    assert figure.axes[0].title.get_fontfamily() == before


def test_font_of_user_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("the user's font has the character"))
    figure = titled(only_in_other_font())
    figure.axes[0].title.set_fontfamily("STIXGeneral")
    drawn(figure)
    assert figure.axes[0].title.get_fontfamily() == ["STIXGeneral"]


def test_figure_of_user_written_without_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_figure("two", [titled("好"), titled("好")], 1)
    assert len(caplog.records) == 1


def test_unreadable_font_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "regular.ttf").write_bytes(b"no font")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "regular.ttf"), str(OTHER)])
    assert figure_fonts._families(frozenset({ord(only_in_other_font())})) == ("STIXGeneral",)


def test_font_installed_later_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = shutil.copy(OTHER, tmp_path / "later.ttf")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(later)])
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    assert figure_fonts._families(frozenset({ord(only_in_other_font())})) == ("STIXGeneral",)
    assert str(later) in {entry.fname for entry in font_manager.fontManager.ttflist}


def test_search_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("no such program: fc-list")

    monkeypatch.setattr(font_manager, "findSystemFonts", fail)
    assert drawn(titled("好评"))
    assert "no such program" in caplog.text
