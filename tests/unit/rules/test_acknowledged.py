"""Tests which findings an acknowledgement covers, and what then counts."""

from __future__ import annotations

import pytest

from tbx_callbacks.rules import Acknowledgement, Finding, diagnose
from tbx_callbacks.rules.acknowledged import unused
from tests.helpers.rule_cases import CASES, FALLING, HEALTHY, flat, run_of

FINDING = Finding(
    "frozen", "warning", ("weight_norm/a", "weight_norm/b"), (1,), "It is.", "Look.", "a test", code="ACME-UPD-001"
)
OVERFITS = Finding("overfits", "warning", ("eval/test_loss", "train/loss"), (1,), "It does.", "Stop.", "a test")


@pytest.mark.parametrize(
    ("finding", "options", "covered"),
    [
        (FINDING, {"rule": "frozen"}, True),
        (FINDING, {"rule": "ACME-UPD-001"}, True),
        (FINDING, {"rule": "froze"}, False),
        (FINDING, {"rule": "f*"}, False),
        (FINDING, {"rule": ""}, False),
        (FINDING, {"rule": "frozen", "tag": "weight_norm/*"}, True),
        (FINDING, {"rule": "frozen", "tag": "*/[ab]"}, True),
        (FINDING, {"rule": "frozen", "tag": "weight_norm/a"}, False),  # b is frozen too
        (FINDING, {"rule": "frozen", "tag": "WEIGHT_NORM/*"}, False),
        (FINDING, {"rule": "frozen", "tag": "weight_norm"}, False),
        (OVERFITS, {"rule": "overfits", "tag": "eval/test_*"}, True),
        (OVERFITS, {"rule": "overfits", "tag": "eval/dev_*"}, False),
        (OVERFITS, {"rule": "overfits", "run": "seed_*"}, True),
        (OVERFITS, {"rule": "overfits", "run": "sweep/seed_1"}, True),
        (OVERFITS, {"rule": "overfits", "run": "sweep/seed_2"}, False),
        (OVERFITS, {"rule": "overfits", "run": "seed"}, False),
        (OVERFITS, {"rule": "overfits", "run": "sweep"}, False),
        (OVERFITS, {"rule": "overfits", "run": "/runs/sweep/*"}, True),
        (OVERFITS, {"rule": "overfits", "tag": "eval/*", "run": "other"}, False),
        (Finding("x", "note", (), (), "", "", ""), {"rule": "x", "tag": "*"}, False),
        (Finding("x", "note", (), (), "", "", ""), {"rule": "x"}, True),
    ],
)
def test_acknowledgement_covers_rule_tag_and_run(finding: Finding, options: dict[str, str], covered: bool) -> None:
    assert Acknowledgement(reason="known", **options).covers(finding, "/runs/sweep/seed_1") == covered


@pytest.mark.parametrize(
    ("folder", "glob", "covered"),
    [
        ("s3://bucket/runs/seed_1", "seed_*", True),
        ("s3://bucket/runs/seed_1", "runs/seed_*", True),
        ("", "*", False),
        (".", "*", True),
        ("/a/b/", "b", True),
    ],
)
def test_acknowledgement_run_is_end_of_folder(folder: str, glob: str, covered: bool) -> None:
    assert Acknowledgement("frozen", "known", run=glob).covers(FINDING, folder) == covered


@pytest.mark.parametrize("rule", ["divergence", "clipping_saturated", "no_warmup"])
def test_diagnose_acknowledged_finding_does_not_count(rule: str) -> None:
    run = run_of({"train/loss": HEALTHY["train/loss"], **CASES[rule][0]})
    plain = diagnose(run)
    assert rule in {finding.id for finding in plain.findings}
    entries = [Acknowledgement(finding.id, "known") for finding in plain.findings]
    found = diagnose(run, acknowledged=entries)
    assert found.findings == ()
    assert [known.finding for known in found.acknowledged] == list(plain.findings)
    assert (found.verdict.kind, found.unjudged) == ("nothing_found", plain.unjudged)
    number = len(entries)
    assert found.verdict.text.startswith("Nothing else found; ")
    assert found.verdict.text.endswith(f"{number} finding{'s' * (number > 1)} acknowledged.")


def test_diagnose_other_finding_still_counts() -> None:
    run = run_of({"train/loss": [*FALLING, *flat(0.9, 20)], "clip/factor": flat(0.01, 80)})
    found = diagnose(run, acknowledged=[Acknowledgement("TBX-GRAD-004", "known")])
    assert [finding.id for finding in found.findings] == ["divergence"]
    assert [known.finding.id for known in found.acknowledged] == ["clipping_saturated"]
    assert found.verdict.kind == "problems"
    assert found.verdict.text.startswith("1 error; ")


def test_unused_entries_match_no_run() -> None:
    entries = [Acknowledgement("frozen", "known"), Acknowledgement("frozen", "known", run="other")]
    one = diagnose(run_of(CASES["no_warmup"][0]), acknowledged=[Acknowledgement("no_warmup", "known")])
    assert unused([*entries, one.acknowledged[0].entries[0]], [(), one.acknowledged]) == entries
    assert str(Acknowledgement("frozen", "known", "a/*", "seed_*")) == "frozen (tag: a/*, run: seed_*)"
    assert str(entries[0]) == "frozen"


def test_unused_entry_behind_another_is_used() -> None:
    entries = [Acknowledgement("no_warmup", "known"), Acknowledgement("no_warmup", "in this run", run="*")]
    one = diagnose(run_of(CASES["no_warmup"][0]), acknowledged=entries, folder="runs/a")
    assert unused(entries, [one.acknowledged]) == []
    assert one.acknowledged[0].reason == "known"
