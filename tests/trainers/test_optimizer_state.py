"""Tests the state of transformers' Adafactor against naive formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.optimization import Adafactor

from tests.helpers.optimizers import rms, run, trained

ADAFACTORS: dict[str, Callable[[Any], Any]] = {
    "transformers": lambda m: Adafactor(m.parameters()),
    "transformers, warming up": lambda m: Adafactor(m.parameters(), warmup_init=True, clip_threshold=0.2),
    "transformers, given rate": lambda m: Adafactor(
        m.parameters(), lr=1e-2, scale_parameter=False, relative_step=False
    ),
    "transformers, first moment": lambda m: Adafactor(
        m.parameters(), lr=1e-2, scale_parameter=False, relative_step=False, beta1=0.9
    ),
}


@pytest.mark.parametrize("name", ADAFACTORS)
def test_transformers_adafactor_effective_lr_matches_step(tmp_path: Path, name: str) -> None:
    read, model, _, seen = run(tmp_path, ADAFACTORS[name])
    exact = 0.15 if "warming up" in name else 2e-3  # steps of 1e-7 are near the precision of the weights
    for key in trained(model):
        for step in (2, 4):
            moved = rms([seen[step][key]])
            assert read.at(f"optimizer_state/effective_lr/{key}")[step] == pytest.approx(moved, rel=exact), key


def test_transformers_adafactor_moments_match_naive(tmp_path: Path) -> None:
    read, model, optimizer, _ = run(tmp_path, ADAFACTORS["transformers, first moment"])
    for key, p in trained(model).items():
        state = optimizer.state[p]
        if p.ndim == 1:
            second = state["exp_avg_sq"].double()
        else:
            row, column = state["exp_avg_sq_row"].double(), state["exp_avg_sq_col"].double()
            second = (row / row.mean(dim=-1, keepdim=True)).unsqueeze(-1) * column.unsqueeze(-2)
        assert second.shape == p.shape
        assert read.at(f"optimizer_state/exp_avg_sq/{key}")[4] == pytest.approx(second.norm().item(), rel=1e-5)
    assert read.family("optimizer_state/exp_avg") == {*trained(model), "total"}
