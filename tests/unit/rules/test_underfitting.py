"""Tests rules about training without progress."""

from __future__ import annotations

import numpy as np

from tests.helpers.rule_cases import findings_of, flat


def test_plateau_finished_run_no_finding() -> None:
    assert findings_of({"train/loss": [*np.geomspace(0.7, 0.01, 20), *flat(0.01, 40)]}) == {}
