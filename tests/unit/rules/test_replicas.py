"""Tests the findings about copies that differ."""

from __future__ import annotations

import numpy as np

from tbx_callbacks.rules import Finding
from tests.helpers.rule_cases import findings_of, series


def found(**totals: list[float]) -> Finding | None:
    return findings_of({f"replicas/{kind}/total": values for kind, values in totals.items()}).get("replicas_differ")


def test_replicas_differ_zeros_no_finding() -> None:
    assert found(weights=[0, 0, 0], optimizer_state=[0, 0], buffers=[0]) is None


def test_replicas_differ_single_point_is_error() -> None:
    finding = found(weights=[0, 1])
    assert finding is not None
    assert (finding.severity, finding.steps) == ("error", (20,))
    assert "between steps 11 and 20" in finding.means


def test_replicas_differ_at_first_point_said() -> None:
    finding = found(weights=[2, 2])
    assert finding is not None
    assert "since the first point, at step 10" in finding.means


def test_replicas_differ_same_again_is_note() -> None:
    finding = found(weights=[0, 3, 0, 3, 0])
    assert finding is not None
    assert finding.severity == "note"
    assert "the same again later" in finding.means


def test_replicas_differ_buffers_alone_are_note() -> None:
    finding = found(weights=[0, 0], buffers=[1, 1])
    assert finding is not None
    assert (finding.severity, finding.tags[0]) == ("note", "replicas/buffers/total")


def test_replicas_differ_error_hides_notes() -> None:
    finding = found(weights=[0, 1], buffers=[1, 1], unmatched=[1, 1])
    assert finding is not None
    assert (finding.severity, finding.tags[0]) == ("error", "replicas/weights/total")


def test_replicas_differ_earlier_kind_named() -> None:
    finding = found(weights=[0, 0, 1], optimizer_state=[0, 1, 1])
    assert finding is not None
    assert finding.tags[0] == "replicas/optimizer_state/total"
    assert finding.advice.startswith("Load the optimizer's state")


def test_replicas_differ_names_layers_and_ranks() -> None:
    layers = {f"replicas/weights/{name}": series([1.0]) for name in ("a", "b", "c", "d", "e")}
    ranks = {"replicas/lowest_rank": series([2.0]), "replicas/highest_rank": series([5.0])}
    finding = findings_of({"replicas/weights/total": np.array([5.0]), **layers, **ranks})["replicas_differ"]
    assert "a, b, c and 2 more layers" in finding.means
    assert "on ranks 2 and 5 and perhaps on others" in finding.means
    assert finding.numbers == {"layers": 5.0, "lowest_rank": 2.0, "highest_rank": 5.0}
