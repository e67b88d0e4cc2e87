"""Tests the rule `uneven_drift`."""

from __future__ import annotations

import numpy as np

from tests.helpers.rule_cases import N, findings_of, flat


def drifts(**last: float) -> dict[str, object]:
    return {f"drift/{name}": np.linspace(0, value, N) for name, value in last.items()}


def test_uneven_drift_names_layers_with_both_numbers() -> None:
    scalars = {
        **drifts(head=0.5, a=0.01, b=0.02, c=0.01, d=0.2),
        "moved_share/head": flat(0.875),
        "drift/total": flat(0.3),
    }
    finding = findings_of(scalars)["uneven_drift"]
    assert (finding.severity, finding.steps) == ("note", (10 * N,))
    assert finding.tags == ("drift/head", "drift/d")
    assert finding.means == (
        "These layers moved most since the start, relative to their initial norm: head by 50.00% (88% of the elements),"
        " d by 20.00%. The median layer moved by 2.00%."
    )
    assert finding.numbers == {"drift/head": 0.5, "median": 0.02}


def test_even_drift_no_finding() -> None:
    assert "uneven_drift" not in findings_of(drifts(a=0.01, b=0.02, c=0.025, d=0.015))


def test_uneven_drift_two_layers_no_finding() -> None:
    assert "uneven_drift" not in findings_of(drifts(a=0.5, b=0.01))


def test_uneven_drift_many_layers_counted() -> None:
    far = {f"layer.{n}": 0.5 + n / 10 for n in range(5)}
    near = {f"block.{n}": 0.001 for n in range(9)}
    finding = findings_of({f"drift/{name}": np.linspace(0, value, N) for name, value in (far | near).items()})
    assert "layer.4 by 90.00%, layer.3 by 80.00%, layer.2 by 70.00% and 2 more." in finding["uneven_drift"].means


def test_uneven_drift_nested_layers_and_nan_ignored() -> None:
    scalars = drifts(a=0.01, b=0.01, c=0.01, d=0.5)
    scalars["drift/d"] = np.append(np.linspace(0, 0.5, N - 1), np.nan)
    assert "d by 50.00%" in findings_of(scalars)["uneven_drift"].means


def test_uneven_drift_before_nan_tells_one_step() -> None:
    scalars = {name: np.append(values, np.nan) for name, values in drifts(head=0.5, a=0.01, b=0.02, c=0.01).items()}
    finding = findings_of({**scalars, "moved_share/head": np.append(flat(0.875), 1.0)})["uneven_drift"]
    assert finding.steps == (10 * N,)
    assert "head by 50.00% (88% of the elements)" in finding.means
