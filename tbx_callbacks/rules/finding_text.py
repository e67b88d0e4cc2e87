"""Formats findings, as one line for the log and as Markdown for TensorBoard's Text tab."""

from __future__ import annotations

import html
import re

from tbx_callbacks import tags
from tbx_callbacks.rules import SEVERITIES, Finding, Severity
from tbx_callbacks.rules.registry import CODE

PREFIX = f"{tags.ALERTS}/"
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!-])")
_SEVERITY = re.compile(r"\*\*(\w+): ")
_MAX_SHOWN = 5  # maximum number of tags, steps and numbers shown


def named(finding: Finding) -> str:
    """Returns the rule's code, if it has one, and its name."""
    return f"{finding.code} {finding.id}" if finding.code else finding.id


def since(finding: Finding) -> str:
    """Returns ` since step 7`; empty for a finding of the whole run, or from its start."""
    return f" since step {finding.steps[0]}" if finding.steps and finding.steps[0] else ""


def line(finding: Finding, done: str = "") -> str:
    """Returns a finding as one line for the log; `done` tells the action that it triggered."""
    return (
        f"{finding.severity} {_printable(named(finding))}{since(finding)}: {_printable(finding.means)}"
        f" [{_printable(evidence(finding))}] try: {_printable(finding.advice)}{done}"
    )


def evidence(finding: Finding, most: int = _MAX_SHOWN) -> str:
    """Returns the first tags and numbers of a finding as one line; the number of a tag stands beside it."""
    numbers = dict(finding.numbers)
    tags = [f"{tag} {numbers.pop(tag):.4g}" if tag in numbers else tag for tag in finding.tags[:most]]
    more = len(finding.tags) - most
    others = ", ".join(f"{name} {number:.4g}" for name, number in list(numbers.items())[:most])
    return ", ".join(tags) + (f" and {more} more" if more > 0 else "") + (f": {others}" if others else "")


def markdown(finding: Finding, step: int, done: str = "") -> str:
    """Returns a finding as Markdown for the Text tab; text from the run is escaped."""
    steps = ", ".join(map(str, finding.steps[:_MAX_SHOWN])) or "the whole run"
    rows = [f"| {_escape_markup(name)} | {number:.6g} |" for name, number in list(finding.numbers.items())[:_MAX_SHOWN]]
    parts = [
        f"**{finding.severity}: {_escape_markup(finding.id)}**{_in_brackets(finding.code)}, found at step {step}",
        _escape_markup(finding.means),
        f"**Try:** {_escape_markup(finding.advice)}",
        f"**Evidence:** {', '.join(map(_escape_markup, finding.tags[:_MAX_SHOWN]))}; steps {steps}",
        "\n".join(["| number | value |", "|---|---|", *rows]) if rows else "",
        _escape_markup(done.strip("; ")),
        f"Source: {_escape_markup(finding.source)}",
    ]
    return "\n\n".join(part for part in parts if part)


def severity_of(text: str) -> Severity | None:
    """Returns the severity of an alert from its Markdown; None for other texts."""
    heading = _SEVERITY.match(text)
    return next((severity for severity in SEVERITIES if heading and heading[1] == severity), None)


def _in_brackets(code: str) -> str:
    shown = code if CODE.fullmatch(code) else _escape_markup(code)  # a code has to be found by a search
    return f" ({shown})" if code else ""


def _escape_markup(text: str) -> str:
    return _MARKUP.sub(r"\\\1", html.escape(_printable(text), quote=False)).replace("|", "&#124;")


def _printable(text: str) -> str:
    """Returns the text with control characters and line breaks replaced."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
