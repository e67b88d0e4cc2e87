"""Tests the context of a step: histograms of a selection, and skipped steps."""

from __future__ import annotations

import torch

from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks.metrics.values import Sum, Unless
from tests.helpers.contexts import context, tensors


def test_context_histograms_groups_without_tensor_left_out() -> None:
    first, second, *_ = tensors(1)
    histograms = context().histograms(Tensors([first, second, None, None]), 16)
    assert list(histograms) == ["0"]
    assert (histograms["0"].bins, [id(tensor) for tensor in histograms["0"].tensors]) == (16, [id(first), id(second)])


def test_context_unless_skipped_wraps_only_with_flag() -> None:
    value, flag = Sum(1.0), torch.tensor(1.0)
    assert context().unless_skipped(value) is value
    assert context(skipped=flag).unless_skipped(value) == Unless(value, flag)
