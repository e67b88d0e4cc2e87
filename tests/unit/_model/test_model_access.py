"""Tests tensors of every kind: exact statistics, or left out with one warning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.schedule import every
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.writers.base import MemoryWriter

METRICS = [
    {"grad_norm": {"by": "parameter"}},
    {"weight_norm": {"by": "parameter"}},
    {"weight_histogram": {"by": "parameter"}},
    {"grad_histogram": {"by": "parameter"}},
    "nonfinite",
]


def step_values(model: nn.Module) -> dict[str, Any]:
    """The values of one step without an update, from the gradients of the parameters."""
    writer = MemoryWriter()
    engine = Engine(load_config({"every": 1, "metrics": METRICS}).items, every=1, strict=True, writer=writer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    engine.start(TrainingInfo(model, {"SGD": optimizer}, log_schedule=every(1)))
    engine.begin_step(1)
    engine.before_clip()
    assert engine.recorder is not None
    engine.recorder.after_step("SGD", optimizer)  # no optimizer can step some kinds
    engine.flush_step()
    engine.end(1, succeeded=True)
    return {tag: value for _, values in writer.batches for tag, value in values.items()}


def module(**tensors: Tensor) -> nn.Module:
    made = nn.Module()
    for name, tensor in tensors.items():
        parameter = nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())
        made.register_parameter(name, parameter)
    return made


KINDS = {
    "bf16": torch.randn(50, 3).bfloat16(),
    "fp16": torch.randn(50, 3).half(),
    "fp64": torch.randn(50, 3).double(),
    "complex": torch.randn(20, 2, dtype=torch.complex64),
    "0-d": torch.tensor(3.5),
    "transposed": torch.randn(40, 30).t(),
    "strided": torch.randn(40, 30)[::2, ::3],
}


@pytest.mark.parametrize("name", KINDS)
def test_access_tensor_kind_exact_statistics(name: str) -> None:
    tensor = KINDS[name]
    model = module(w=tensor)
    model.w.grad = tensor.detach().clone() * 2
    values = step_values(model)
    numbers = torch.view_as_real(tensor).reshape(-1) if tensor.is_complex() else tensor.reshape(-1)
    norm = float(numbers.double().norm())
    assert values["weight_norm/w"] == pytest.approx(norm, rel=1e-5)
    assert values["grad_norm/w"] == pytest.approx(2 * norm, rel=2e-3 if tensor.dtype.itemsize == 2 else 1e-5)
    histogram_of_weights = values["weights/w"]
    assert sum(histogram_of_weights.counts) == numbers.numel()
    assert histogram_of_weights.total == pytest.approx(float(numbers.double().sum()), rel=1e-4, abs=1e-4)
    assert values["nonfinite/weights/total"] == 0


def test_access_sparse_gradient_exact_statistics() -> None:
    model = nn.Embedding(30, 4, sparse=True)
    model(torch.tensor([1, 2, 2, 7])).pow(2).sum().backward()
    assert model.weight.grad.is_sparse
    values = step_values(model)
    dense = model.weight.grad.to_dense()
    assert values["grad_norm/weight"] == pytest.approx(float(dense.norm()), rel=1e-5)
    # only the rows of the batch; absent rows do not count as zeros
    assert sum(values["grads/weight"].counts) == 3 * 4


def test_access_empty_tensor_no_histogram() -> None:
    model = module(w=torch.empty(0, 4), v=torch.ones(2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    values = step_values(model)
    assert values["weight_norm/w"] == 0
    assert "weights/w" not in values
    assert values["weights/v"].counts


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.empty(3, device="meta"), "q (on the meta device: it has no elements)"),
        (torch.ones(3, dtype=torch.uint8), "q (torch.uint8: its elements are packed or quantized)"),
    ],
)
def test_access_unreadable_tensor_left_out_named_once(
    tensor: Tensor, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = module(q=tensor, w=torch.ones(4))
    model.w.grad = torch.ones(4)
    values = step_values(model)
    assert values["weight_norm/w"] == 2
    assert not [tag for tag in values if tag.endswith("/q")]
    assert caplog.text.count(reason) == 1


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_access_quantized_weight_left_out_named_once(caplog: pytest.LogCaptureFixture) -> None:
    model = module(q=torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 0, torch.qint8), w=torch.ones(4))
    model.w.grad = torch.ones(4)
    values = step_values(model)
    assert values["weight_norm/w"] == 2
    assert not [tag for tag in values if tag.endswith("/q")]
    assert caplog.text.count("q (torch.qint8: its elements are packed or quantized)") == 1
