"""Tests the context of a step: numbers per group, histograms, skipped steps and counters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks.metrics.context import Interval
from tbx_callbacks.metrics.values import Max, Mean, Sum, Unless
from tests.helpers.contexts import by_layer, context, finished, tensors


def test_context_histograms_groups_without_tensor_left_out() -> None:
    first, second, *_ = tensors(1)
    histograms = context().histograms(Tensors([first, second, None, None]), 16)
    assert list(histograms) == ["0"]
    assert (histograms["0"].bins, [id(tensor) for tensor in histograms["0"].tensors]) == (16, [id(first), id(second)])


def test_context_unless_skipped_wraps_only_with_flag() -> None:
    value, flag = Sum(1.0), torch.tensor(1.0)
    assert context().unless_skipped(value) is value
    assert context(skipped=flag).unless_skipped(value) == Unless(value, flag)


def test_context_sum_by_group_equals_naive_sum() -> None:
    step = context()
    fourth = step.sum_by_group(step.weights, lambda elements: elements.double().pow(4).sum())
    counts = step.sum_by_group(step.weights, torch.numel)
    weights = [parameter.tensor.detach() for parameter in step.parameters]
    expected = {name: float(layer.pow(4).mean()) for name, layer in by_layer(weights).items()}
    assert finished({"fourth/{group}": Mean(fourth, counts)}) == pytest.approx(
        {f"fourth/{name}": number for name, number in expected.items()}
    )


def test_context_sum_by_group_of_two_tensors() -> None:
    first, second, third, _ = tensors(1)
    step = context(gradients=Tensors([first, second, third, None]))
    found = step.sum_by_group(step.gradients, torch.dot, step.updates)
    updates = tensors(2)
    expected = {
        "0": (first * updates[0]).sum() + (second * updates[1]).sum(),
        "2": (third * updates[2]).sum(),  # the last parameter has no gradient
    }
    assert {name: float(number) for name, number in found.items()} == pytest.approx(
        {name: float(number) for name, number in expected.items()}, rel=1e-5
    )


def test_context_max_by_group_skips_absent_and_empty() -> None:
    first, second, third, _ = (tensor.abs() + 1 for tensor in tensors(1))
    step = context()
    found = step.max_by_group(Tensors([-first, torch.empty(0), None, None]), torch.max)
    assert finished({"max/{group}": Max(found)}) == pytest.approx({"max/0": float(-first.min())})
    found = step.max_by_group(Tensors([first, second, third, None]), torch.max)
    assert dict(found) == {"0": max(first.max(), second.max()), "2": third.max()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_context_sum_by_group_elements_wide_and_flat(dtype: torch.dtype) -> None:
    given: list[Tensor] = []

    def record(elements: Tensor) -> Tensor:
        given.append(elements)
        return elements.sum()

    step = context()
    step.sum_by_group(Tensors([torch.ones(2, 3, dtype=dtype), None, None, None]), record)
    (elements,) = given
    assert elements.shape == (12 if dtype.is_complex else 6,)
    assert elements.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_context_sum_by_group_sparse_values_once() -> None:
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 0, 2]]), torch.tensor([1.0, 2.0, 4.0]), (4,), check_invariants=True
    )
    step = context()
    found = step.sum_by_group(Tensors([sparse, None, None, None]), lambda elements: elements.square().sum())
    assert dict(found) == {"0": torch.tensor(25.0)}


def test_context_sum_by_group_several_numbers_raise() -> None:
    step = context()
    with pytest.raises(ValueError, match="one number per tensor"):
        step.sum_by_group(step.weights, lambda elements: elements)


def test_context_sum_by_group_of_released_tensors_raises() -> None:
    step = context()
    step.gradients.statistics_only(nonfinite=True)
    with pytest.raises(RuntimeError, match="use gradients or weights"):
        step.sum_by_group(step.gradients, torch.sum)


def test_interval_difference_of_totals() -> None:
    tokens = torch.tensor(6)
    one = {"batches": 1, "sample_batches": 1, "token_batches": 1}
    earlier = Interval(steps=2, seconds=1.0, samples=4, tokens=tokens, waits=1, waiting=0.5, **one)
    two = {"batches": 2, "sample_batches": 2, "token_batches": 1}
    later = Interval(steps=5, seconds=3.0, samples=8, tokens=tokens, waits=3, waiting=1.5, loss_scale=8.0, **two)
    difference = later - earlier
    assert (difference.steps, difference.seconds, difference.samples, difference.waiting) == (3, 2.0, 4, 1.0)
    assert difference.tokens is None  # no micro-batch had tokens
    assert difference.loss_scale == 8.0
    assert (earlier - Interval()) == earlier


def test_interval_partly_counted_batches_left_out() -> None:
    earlier = Interval(batches=1, sample_batches=1, samples=4, token_batches=1, tokens=6)
    later = Interval(batches=3, sample_batches=2, samples=8, token_batches=3, tokens=20)
    difference = later - earlier
    assert difference.samples is None  # those of one of the two micro-batches are unknown
    assert difference.tokens == 14
