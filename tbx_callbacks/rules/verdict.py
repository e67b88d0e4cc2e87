"""Defines `Verdict`, which sums up a diagnosis: problems, nothing found, or too little to judge."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tbx_callbacks._text import count
from tbx_callbacks.rules.base import Finding, Unjudged

Kind = Literal["problems", "nothing_found", "too_little"]

DECISIVE: tuple[tuple[str, ...], ...] = (
    ("nonfinite",),
    ("divergence", "kl_runaway", "entropy_collapse", "no_reward_variance"),
    ("underfitting", "kl_runaway", "entropy_collapse", "no_reward_variance"),
)
"""Rules without which nothing can be said: of each group one must have judged the run.

They look at non-finite values, at a training loss that rises, and at one that does not fall. A policy gradient has no
loss that must fall; rules about its entropy, its KL divergence or its rewards take the place of the last two.
"""


@dataclass(frozen=True)
class Verdict:
    """What a diagnosis amounts to.

    - `kind`: `problems` (an error or a warning was found), `nothing_found`, or `too_little` (rules that matter had no
      data, so that no finding means nothing, or a short run has learned nothing so far).
    - `judged`, `rules`: the number of rules that judged the run, and of all rules. A failed rule has not judged it.
    - `text`: one sentence.
    - `remedy`: what would let more rules judge, in one sentence; empty if no decisive rule lacks anything.
    """

    kind: Kind
    judged: int
    rules: int
    text: str
    remedy: str = ""


def verdict_of(
    findings: Sequence[Finding],
    unjudged: Sequence[Unjudged],
    failed: Collection[str],
    rules: Collection[str],
    decisive: Sequence[Sequence[str]] = DECISIVE,
    *,
    num_acknowledged: int = 0,
) -> Verdict:
    """Sums up a diagnosis.

    Args:
        findings: of the rules that judged the run.
        unjudged: the rules that lacked data.
        failed: the names of the rules that raised.
        rules: the names of all rules.
        decisive: groups of rules, see `DECISIVE`.
        num_acknowledged: the number of further findings, which the project has acknowledged.
    """
    besides = f" {count(num_acknowledged, 'finding')} acknowledged." if num_acknowledged else ""
    lacking = {entry.id: entry for entry in unjudged}
    besides += _excluded_words(lacking, failed, rules, decisive)
    number = len(rules) - len(lacking) - len(failed)
    coverage = f"{number} of {len(rules)} rules could judge this run."
    open_rules = _undecided(lacking, failed, rules, decisive)
    remedy = _remedy(open_rules, lacking)
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in ("error", "warning")}
    if any(counts.values()):
        found = " and ".join(count(number_found, severity) for severity, number_found in counts.items() if number_found)
        text = f"{found}; {coverage}{besides}"
        return Verdict("problems", number, len(rules), text, "" if counts["error"] else remedy)
    if open_rules:
        reason = _reason(open_rules[0], lacking)
        text = f"Too little to judge: {reason}. {coverage}{besides}"
        return Verdict("too_little", number, len(rules), text, remedy)
    if any(finding.id == "underfitting" for finding in findings):  # a note: the run is too short for a warning
        text = f"Too little to judge: the model has learned next to nothing, in a short run. {coverage}{besides}"
        return Verdict("too_little", number, len(rules), text, "Train for longer, or log the loss more often.")
    what = "Nothing but notes" if findings else "Nothing else found" if num_acknowledged else "Nothing found"
    text = f"{what}; {coverage}{besides}"
    return Verdict("nothing_found", number, len(rules), text, remedy)


def _undecided(
    lacking: Mapping[str, Unjudged],
    failed: Collection[str],
    rules: Collection[str],
    decisive: Sequence[Sequence[str]],
) -> list[str]:
    """Returns, of each decisive group in which no rule judged the run, the first rule that could have."""
    excluded = _excluded(lacking)
    groups = [
        group for group in _unjudged(lacking, failed, rules, decisive) if not _is_replaced(group, decisive, excluded)
    ]
    return [next((rule for rule in group if rule in rules and rule not in excluded), group[0]) for group in groups]


def _unjudged(
    lacking: Mapping[str, Unjudged],
    failed: Collection[str],
    rules: Collection[str],
    decisive: Sequence[Sequence[str]],
) -> list[Sequence[str]]:
    judged = set(rules) - set(lacking) - set(failed)
    return [group for group in decisive if not judged & set(group)]


def _is_replaced(group: Sequence[str], decisive: Sequence[Sequence[str]], excluded: Collection[str]) -> bool:
    """Whether a rule of the group is not for this run, and another group on the same question applies in full."""
    related = [other for other in decisive if other is not group and set(other) & set(group)]
    return bool(set(group) & set(excluded)) and any(not set(other) & set(excluded) for other in related)


def _excluded(lacking: Mapping[str, Unjudged]) -> set[str]:
    return {name for name, entry in lacking.items() if not entry.applies}


def _excluded_words(
    lacking: Mapping[str, Unjudged],
    failed: Collection[str],
    rules: Collection[str],
    decisive: Sequence[Sequence[str]],
) -> str:
    """Names the decisive rules that are not for this run, with what they are for, where no other rule judged."""
    excluded = _excluded(lacking)
    groups = [g for g in _unjudged(lacking, failed, rules, decisive) if _is_replaced(g, decisive, excluded)]
    shown = dict.fromkeys(name for group in groups for name in group if name in excluded)
    return "".join(f" Not judged by {name}, which is for {lacking[name].missing}." for name in shown)


def _reason(rule: str, lacking: Mapping[str, Unjudged]) -> str:
    if rule in lacking and not lacking[rule].applies:
        return f"the rule {rule} is for {lacking[rule].missing}"
    if rule in lacking:
        return f"the rule {rule} needs {lacking[rule].missing}"
    return f"the rule {rule} failed or is switched off"


def _remedy(open_rules: Sequence[str], lacking: Mapping[str, Unjudged]) -> str:
    metrics = list(
        dict.fromkeys(lacking[rule].metric for rule in open_rules if rule in lacking and lacking[rule].applies)
    )
    if metrics:
        wanted = ", and ".join(f"the {metric}" if metric.startswith("loss") else metric for metric in metrics)
        return f"Log {wanted}. In a short run, log at every step."
    return "Fix or switch on these rules: " + ", ".join(open_rules) + "." if open_rules else ""
