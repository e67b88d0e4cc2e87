"""Fits lines into a limited number of characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tbx_callbacks._text import printable
from tbx_callbacks.rules import Finding
from tbx_callbacks.rules.finding_text import named, since

LIMIT = 2400
"""Characters of a summary: what a terminal page, or the context of a program that reads many runs, holds."""
_LONGEST_LINE = 300
_CUT = "... cut here; --json has everything"


def fit(lines: Iterable[str], limit: int = LIMIT) -> str:
    """Returns the lines as a text of at most `limit` characters; a text that is cut says so in its last line."""
    kept: list[str] = []
    size = 0
    for line in map(_short, lines):
        if size + len(line) + 1 > limit - len(_CUT) - 1:
            return "\n".join([*kept, _CUT]) + "\n"
        kept.append(line)
        size += len(line) + 1
    return "\n".join(kept) + "\n"


def _short(line: str) -> str:
    text = printable(line)
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 3]}..."


def findings_lines(findings: Sequence[Finding], limit: int) -> Iterator[str]:
    """Yields findings, worst first, each with its advice, in at most about `limit` characters; at least one."""
    size = 0
    for index, finding in enumerate(findings):
        lines = [_short(f"{finding.severity} {named(finding)}{since(finding)}: {finding.means}")]
        lines += [] if finding.severity == "note" else [_short(f"  try: {finding.advice}")]
        size += sum(map(len, lines))
        if index and size > limit:
            yield f"and {len(findings) - index} more findings; --json has them all"
            return
        yield from lines
