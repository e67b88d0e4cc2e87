"""Tests norms of gradients, weights and updates against float64."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks.metrics.norms import GradNorm, GradNormClipped, UpdateNorm, UpdateRatio, WeightNorm
from tbx_callbacks.tags import TRAINER_CLIP_FACTOR
from tests.helpers.contexts import by_layer, context, finished, model, tensors


def norms(chosen: list[torch.Tensor], family: str) -> dict[str, object]:
    return {f"{family}/{layer}": pytest.approx(x.norm().item(), rel=1e-6) for layer, x in by_layer(chosen).items()}


def test_grad_norm_before_clipping_exact() -> None:
    assert finished(GradNorm()(context())) == norms(tensors(1), "grad_norm")


def test_grad_norm_unseen_divided_by_clip_factor() -> None:
    values = GradNorm()(context(before_clip=None))
    assert finished(values, {TRAINER_CLIP_FACTOR: 0.1}) == norms(tensors(1), "grad_norm")
    assert finished(values) == {}
    assert GradNorm()(context(before_clip=None, clipping="other")) == {}


def test_grad_norm_clipped_exact() -> None:
    clipped = [gradient / 10 for gradient in tensors(1)]
    assert finished(GradNormClipped()(context())) == norms(clipped, "grad_norm_clipped")


def test_grad_norm_absent_gradients_left_out() -> None:
    one, *_ = tensors(1)
    values = finished(GradNorm()(context(before_clip=Tensors([one, None, None, None]))))
    assert values == {"grad_norm/0": pytest.approx(one.double().norm().item(), rel=1e-6)}


def test_weight_norm_by_total_exact() -> None:
    weights = torch.cat([weight.detach().double().reshape(-1) for weight in model().parameters()])
    values = finished(WeightNorm()(context(by="total")))
    assert values == {"weight_norm/total": pytest.approx(weights.norm().item(), rel=1e-6)}


def test_update_norm_and_ratio_exact() -> None:
    weights = by_layer([weight.detach() for weight in model().parameters()])
    updates = by_layer(tensors(2))
    ratios = {f"update_ratio/{layer}": (updates[layer].norm() / weights[layer].norm()).item() for layer in weights}
    assert finished(UpdateNorm()(context())) == norms(tensors(2), "update_norm")
    assert finished(UpdateRatio()(context())) == pytest.approx(ratios, rel=1e-6)


@pytest.mark.parametrize("metric", [UpdateNorm(), UpdateRatio()])
def test_update_metrics_skipped_step_left_out(metric: UpdateNorm | UpdateRatio) -> None:
    assert finished(metric(context(skipped=torch.tensor(1.0)))) == {}
    assert len(finished(metric(context(skipped=torch.tensor(0.0))))) == 2
    assert metric(context(updates=None)) == {}
