"""Tests statistics of module outputs."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks.metrics.activations import Activations
from tests.helpers.contexts import context, finished


def test_activations_statistics_match_float64() -> None:
    x = torch.randn(6, 5).relu()
    values = finished(Activations(bins=4)(context(activations={"layer.0": x})))
    assert values["activations/layer.0/norm"] == pytest.approx(x.double().square().mean().sqrt().item(), rel=1e-6)
    assert values["activations/layer.0/mean"] == pytest.approx(x.double().mean().item(), rel=1e-6)
    assert values["activations/layer.0/zero_share"] == pytest.approx((x == 0).double().mean().item())
    assert sum(values["activations/layer.0"].counts) == 30  # type: ignore[union-attr]


def test_activations_bad_option_refused() -> None:
    with pytest.raises(ValueError, match=r"modules must be a valid regular expression, got '\('"):
        Activations(modules="(")
    with pytest.raises(ValueError, match="bins must be between 1 and 255"):
        Activations(bins=0)
