"""Tests micro-batches: samples, tokens, labels and losses in their usual forms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tbx_callbacks.integrations.batches import labels_in, loss_in, samples_in, scalar_loss, tokens_in

LABELS = torch.tensor([0, 1])
X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"labels": LABELS, "y": X}, LABELS),
        ({"target": LABELS}, LABELS),
        ((X, LABELS), LABELS),
        ((X, X), None),
        ({"x": X}, None),
        ([X], None),
    ],
    ids=["labels", "target", "pair", "regression", "none", "single"],
)
def test_labels_in_usual_batches_found(batch: Any, expected: Any) -> None:
    assert labels_in(batch) is expected


def test_samples_in_batch_counts_first_dimension() -> None:
    assert samples_in({"x": torch.ones(5, 2), "input_ids": X}) == 2
    assert samples_in({"scalar": torch.tensor(1.0), "x": torch.ones(5, 2)}) == 5
    assert samples_in({}) == samples_in("text") == 0
    assert samples_in((X, LABELS)) == samples_in([X]) == samples_in(X) == 2


def test_tokens_in_attention_masks_summed() -> None:
    mask = torch.tensor([[1, 1], [1, 0]])
    assert tokens_in({"attention_mask": mask}) is mask
    assert tokens_in({"attention_mask": torch.ones(2, 2, 2)}) is None
    tokens = tokens_in({"a_attention_mask": mask, "b_attention_mask": mask})
    assert tokens is not None
    assert int(tokens) == 6
    assert tokens_in({"x": X}) is tokens_in((X, LABELS)) is None


@pytest.mark.parametrize(
    "outputs", [{"loss": torch.tensor(2.0)}, (torch.tensor(2.0), X), SimpleNamespace(loss=torch.tensor(2.0))]
)
def test_loss_in_usual_outputs_found(outputs: Any) -> None:
    loss = loss_in(outputs)
    assert loss is not None
    assert loss.item() == 2.0


def test_loss_in_outputs_without_scalar_none() -> None:
    assert loss_in({"logits": X}) is loss_in((X,)) is loss_in(X) is None


def test_scalar_loss_detached_or_refused() -> None:
    loss = scalar_loss(torch.ones(1, requires_grad=True))
    assert (loss.shape, loss.requires_grad) == (torch.Size([]), False)
    assert scalar_loss(0.5).item() == 0.5
    with pytest.raises(ValueError, match=r"loss must be a scalar, got shape \(2,\)"):
        scalar_loss(torch.ones(2))
