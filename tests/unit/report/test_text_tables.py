"""Tests which parts of a Markdown text become tables, and their cells."""

from __future__ import annotations

import pytest

from tbx_callbacks.report.text_tables import TextTable, blocks
from tests.helpers.report_runs import HOSTILE

TABLE = "| name | value |\n|---|--:|\n| lr | 0.1 |"


def test_blocks_of_table_between_texts_in_order() -> None:
    before, table, after = blocks(f"# Arguments\n\n{TABLE}\n\nthe end\n")
    assert (before, after) == ("# Arguments", "the end")
    assert table == TextTable(("name", "value"), (("lr", "0.1"),), frozenset({1}))


def test_blocks_cells_without_markup_and_escapes() -> None:
    text = f"|a|b|\n|-|-|\n|**x** `y` __init__|p\\|q &lt;b&gt; snake_case \\*|\n|{HOSTILE}|"
    (table,) = blocks(text)
    assert table.rows == (("x y __init__", "p|q <b> snake_case *"), (HOSTILE, ""))


def test_blocks_rows_of_other_length_keep_text() -> None:
    (table,) = blocks("a | b\n--- | ---\n1 | 2 | 3\n4")[:1]
    assert table.rows == (("1", "2 | 3"),)


@pytest.mark.parametrize(
    "text", ["no table", "a | b\nc | d", "|a|b|\n|---|", f"```\n{TABLE}\n```", "a\n---\nb", "|---|", ""]
)
def test_blocks_without_table_are_the_text(text: str) -> None:
    assert blocks(text) == ([text] if text else [])


def test_blocks_of_endless_table_counts_rest() -> None:
    (table,) = blocks(TABLE + "\n| x | 1 |" * 1000)
    assert (len(table.rows), table.left_out) == (400, 601)
