"""Prints a comparison of runs: for a terminal, as Markdown, and for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from tbx_callbacks._text import printable
from tbx_callbacks.cli.outputs import finite, header
from tbx_callbacks.cli.terminal import full_table
from tbx_callbacks.comparison import Comparison, Curve, Difference
from tbx_callbacks.comparison.curves import Parting
from tbx_callbacks.report.markdown import plain_text

_MOST_ROWS = 20


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints the differences between kinds of runs to a terminal."""
    for title, rows, nothing in _tables(comparison):
        if not rows:
            console.print(f"[bold]{title}[/bold]: {nothing}")
            continue
        table = full_table("", *(_safe(kind.title) for kind in comparison.kinds), title=title, title_justify="left")
        for row in rows[:_MOST_ROWS]:
            table.add_row(_safe(row.name), *map(_safe, row.values))
        console.print(table)
        if len(rows) > _MOST_ROWS:
            console.print(f"  and {len(rows) - _MOST_ROWS} more; --json lists them all")
    console.print("[bold]curves[/bold]" + (f", compared with {_safe(comparison.kinds[0].title)}"))
    for curve in comparison.curves:
        for words in _sentences(comparison, curve):
            console.print(f"  {_safe(words)}", soft_wrap=True)
    for note in comparison.notes:
        console.print(f"[yellow]{_safe(note)}[/yellow]", soft_wrap=True)


def as_markdown(comparison: Comparison) -> str:
    """Returns the comparison as Markdown, for a comment on a pull request."""
    lines = [f"### Comparison with {plain_text(comparison.kinds[0].title)}", ""]
    for title, rows, nothing in _tables(comparison):
        if not rows:
            lines += [f"**{title}**: {nothing}", ""]
            continue
        lines += [f"| {title} | " + " | ".join(plain_text(kind.title) for kind in comparison.kinds) + " |"]
        lines += ["|---|" + "---|" * len(comparison.kinds)]
        lines += [
            f"| {plain_text(row.name)} | " + " | ".join(map(plain_text, row.values)) + " |" for row in rows[:_MOST_ROWS]
        ]
        lines += [f"and {len(rows) - _MOST_ROWS} more", ""] if len(rows) > _MOST_ROWS else [""]
    lines += ["**Curves**", ""]
    lines += [f"- {plain_text(words)}" for curve in comparison.curves for words in _sentences(comparison, curve)]
    lines += ["", *(f"> {plain_text(note)}" for note in comparison.notes)] if comparison.notes else []
    return "\n".join(lines) + "\n"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Returns the comparison as plain objects; numbers that are not finite are texts or None."""
    return {
        **header("compare"),
        "kinds": [
            {
                "name": kind.name,
                "runs": [run.name for run in kind.runs],
                "statuses": [run.run.status or None for run in kind.runs],
            }
            for kind in comparison.kinds
        ],
        "settings": [dataclasses.asdict(row) for row in comparison.settings],
        "versions": [dataclasses.asdict(row) for row in comparison.versions],
        "findings": [dataclasses.asdict(row) for row in comparison.findings],
        "curves": [
            {
                "tag": curve.tag,
                "last": [None if end is None else {"mean": finite(end[0]), "std": _std(end[1])} for end in curve.ends],
                "parts": [None if parting is None else dataclasses.asdict(parting) for parting in curve.partings],
            }
            for curve in comparison.curves
        ],
        "notes": list(comparison.notes),
    }


def _tables(comparison: Comparison) -> list[tuple[str, Sequence[Difference], str]]:
    return [
        ("settings", comparison.settings, "no differences that the logs tell"),
        ("versions", comparison.versions, "no differences that the logs tell"),
        ("findings", comparison.findings, "none in any run"),
    ]


def _sentences(comparison: Comparison, curve: Curve) -> list[str]:
    """One sentence for each further kind."""
    first = curve.ends[0]
    sentences = []
    for kind, end, parting in zip(comparison.kinds[1:], curve.ends[1:], curve.partings, strict=True):
        if first is None or end is None or parting is None:
            missing = comparison.kinds[0] if first is None else kind
            sentences.append(f"{curve.tag}: not logged in {missing.name}")
        else:
            sentences.append(f"{curve.tag}: {_difference(parting)}; {_end(first)} -> {_end(end)} in {kind.name}")
    return sentences


def _difference(parting: Parting) -> str:
    if parting.is_equal:
        return f"equal at all {parting.points} shared steps"
    if not parting.is_compared:
        return f"not compared, for only {parting.points} steps are shared"
    prefix = f"equal until step {parting.equal_until}, " if parting.equal_until is not None else ""
    if parting.since is None:
        return f"{prefix}no lasting difference beyond the noise"
    return f"{prefix}apart since step {parting.since}"


def _end(end: tuple[float, float]) -> str:
    mean, std = end
    return f"{mean:.4g}" + ("" if math.isnan(std) else f" ± {std:.2g}")


def _std(number: float) -> float | str | None:
    return None if math.isnan(number) else finite(number)


def _safe(text: str) -> str:
    return escape(printable(text))
