"""A finding in words: for the terminal, and as Markdown for TensorBoard's Text tab."""

from __future__ import annotations

import html
import re

from tbx_callbacks import tags
from tbx_callbacks.rules import SEVERITIES, Finding, Severity

PREFIX = f"{tags.ALERTS}/"
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!-])")
_FIRST = re.compile(r"\*\*(\w+): ")
_MOST = 5  # tags, steps and numbers that are shown


def line(finding: Finding, done: str = "") -> str:
    """One line, for the log."""
    first = f" since step {finding.steps[0]}" if finding.steps else ""
    numbers = ", ".join(f"{_plain(name)} {number:.4g}" for name, number in list(finding.numbers.items())[:_MOST])
    evidence = f" [{', '.join(map(_plain, finding.tags[:_MOST]))}{': ' if numbers else ''}{numbers}]"
    return (
        f"{finding.severity} {finding.id}{first}: {_plain(finding.means)}{evidence} try: {_plain(finding.advice)}{done}"
    )


def markdown(finding: Finding, step: int, done: str = "") -> str:
    """The alert as it stands in the Text tab; what comes from the run is shown as it is, never as markup."""
    steps = ", ".join(map(str, finding.steps[:_MOST])) or "the whole run"
    rows = [f"| {_escaped(name)} | {number:.6g} |" for name, number in list(finding.numbers.items())[:_MOST]]
    parts = [
        f"**{finding.severity}: {_escaped(finding.id)}**, found at step {step}",
        _escaped(finding.means),
        f"**Try:** {_escaped(finding.advice)}",
        f"**Evidence:** {', '.join(map(_escaped, finding.tags[:_MOST]))}; steps {steps}",
        "\n".join(["| number | value |", "|---|---|", *rows]) if rows else "",
        _escaped(done.strip("; ")),
        f"Source: {_escaped(finding.source)}",
    ]
    return "\n\n".join(part for part in parts if part)


def severity_of(text: str) -> Severity | None:
    """The severity of an alert from its Markdown; None for what somebody else has written."""
    found = _FIRST.match(text)
    return next((severity for severity in SEVERITIES if found and found[1] == severity), None)


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", html.escape(_plain(text), quote=False)).replace("|", "&#124;")


def _plain(text: str) -> str:
    """Without control characters and line ends."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
