"""Tests micro-batches: samples, tokens, labels and losses in their usual and unusual forms."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tbx_callbacks.integrations.batches import labels_in, masks_in, samples_in, scalar_loss, tokens_in

LABELS = torch.tensor([0, 1])
X = torch.ones(2, 3)
IDS = torch.tensor([[5, 6, 7], [8, 9, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
ENCODED = {"input_ids": IDS, "attention_mask": MASK}
PACKED = torch.arange(1, 10)[None]  # sequences of 4, 3 and 2 tokens
POSITIONS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]])
Pair = namedtuple("Pair", ["x", "y"])


@dataclass
class Fields:
    input_ids: Tensor
    attention_mask: Tensor


class Broken:
    """Neither its length nor its elements can be read."""

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __getitem__(self, index: Any) -> Any:
        raise RuntimeError("no elements")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attributes")


class BrokenMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("no values")

    def __iter__(self) -> Iterator[str]:
        return iter(["input_ids"])

    def __len__(self) -> int:
        return 1


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


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        ({"x": torch.ones(5, 2), "input_ids": X}, 2),
        ({"scalar": torch.tensor(1.0), "x": torch.ones(5, 2)}, 5),
        ({"x": X, "weights": torch.ones(7), "labels": LABELS}, 2),
        ({"text": ["a", "b"], "labels": LABELS}, 2),
        ({"text": ["a", "b", "c"]}, 3),
        ({"inputs": ENCODED, "labels": LABELS}, 2),
        ({"a": {"b": {"x": X}}}, 2),
        ({"x": np.ones((4, 2)), "y": np.ones(4)}, 4),
        (UserDict(ENCODED), 2),
        ((X, LABELS), 2),
        ([X, LABELS], 2),
        ([X], 2),
        (X, 2),
        ([X, torch.ones(2, 1)], 2),
        ((X, X, X), 2),
        ((ENCODED, LABELS), 2),
        (([X, X], LABELS), 2),
        (Pair(X, LABELS), 2),
        (Fields(IDS, MASK), 2),
        (SimpleNamespace(x=X, y=LABELS, _cache=torch.ones(9)), 2),
        ([{"input_ids": IDS[0], "label": 1}, {"input_ids": IDS[1], "label": 0}, {"input_ids": IDS[0]}], 3),
        ([{"input_ids": [5, 6, 7], "label": 1}, {"input_ids": [8], "label": 0}], 2),
        ([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}], 3),
        ([ENCODED, ENCODED], 2),
        (["one", "two", "three"], 3),
        (tuple([[torch.ones(3, 8, 8)] * 4, LABELS.repeat(2)]), None),
        ([torch.ones(3, 8, 8)] * 5, None),
        ({"x": X, "y": torch.ones(7)}, None),
        ({"input_ids": torch.arange(7)}, None),
        ({}, None),
        ([], None),
        ("text", None),
        (torch.tensor(1.0), None),
        (None, None),
    ],
)
def test_samples_in_batches_of_any_structure(batch: Any, samples: int | None) -> None:
    assert samples_in(batch) == samples


def test_samples_in_trainer_batch_size_decides() -> None:
    images = [torch.ones(3, 8, 8)] * 5
    assert samples_in(images, 5) == 5
    assert samples_in((images, [{"boxes": torch.ones(n, 4)} for n in range(5)]), 5) == 5
    assert samples_in([X, X, X, X], 2) == 2
    assert samples_in({"input_ids": torch.ones(8, 3)}, 4) is None  # not the trainer's samples
    assert samples_in({"input_ids": IDS[:1]}, 1) == 1
    assert samples_in({"input_ids": IDS[:1]}, 2) is samples_in({"input_ids": IDS[:1]}) is None


@pytest.mark.parametrize(
    "structure",
    [
        {"position_ids": POSITIONS},
        {"position_ids": POSITIONS, "attention_mask": torch.ones(1, 9)},
        {"cu_seq_lens_q": torch.tensor([0, 4, 7, 9]), "cu_seq_lens_k": torch.tensor([0, 4, 7, 9])},
        {"cu_seqlens": torch.tensor([0, 4, 7, 9])},
        {"seq_idx": torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 2]])},
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_packed_batch_counted_by_boundaries(structure: dict[str, Tensor], flat: bool) -> None:
    batch = {"input_ids": PACKED, "labels": PACKED, **structure}
    if flat:
        batch = {name: tensor.flatten() for name, tensor in batch.items()}
    assert samples_in(batch) == samples_in(batch, 3) == 3
    assert samples_in(batch, 1) is None  # the trainer's samples are packed rows
    tokens = tokens_in(batch)
    assert (tokens is None and flat and "seq_idx" in structure) or int(tokens) == 9  # type: ignore[arg-type]


def test_packed_batch_without_boundaries_only_tokens() -> None:
    tokens = tokens_in({"input_ids": PACKED, "labels": PACKED})
    assert tokens is not None
    assert int(tokens) == 9
    assert samples_in({"input_ids": PACKED, "labels": PACKED}, 4) is None
    block_diagonal = torch.block_diag(*[torch.ones(n, n) for n in (4, 3, 2)])[None, None]
    assert samples_in({"input_ids": PACKED, "attention_mask": block_diagonal}, 4) is None
    padded = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 0, 0]])
    assert samples_in({"input_ids": PACKED, "position_ids": padded}) is None


CAUSAL = torch.tril(torch.ones(3, 3))[None] * MASK[:, None]  # [2, 3, 3]
ADDED = torch.zeros(CAUSAL.shape).masked_fill(CAUSAL == 0, torch.finfo(torch.float32).min)


@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        (ENCODED, 5),
        ({"input_ids": IDS, "attention_mask": MASK.bool()}, 5),
        ({"input_ids": IDS, "attention_mask": MASK.float()}, 5),
        ({"input_ids": IDS, "attention_mask": MASK * torch.tensor([1, 2, 3])}, 5),  # numbers of packed sequences
        ({"input_ids": IDS, "attention_mask": CAUSAL}, 5),
        ({"input_ids": IDS, "attention_mask": CAUSAL.bool()[:, None]}, 5),
        ({"input_ids": IDS, "attention_mask": CAUSAL[:, None].expand(2, 4, 3, 3)}, 5),
        ({"input_ids": IDS, "attention_mask": ADDED[:, None]}, 5),
        ({"input_ids": IDS, "attention_mask": ADDED.half()}, 5),
        ({"input_ids": IDS, "attention_mask": ADDED.clamp(min=-10000)}, 5),
        ({"input_ids": IDS, "attention_mask": torch.zeros(2, 1, 3, 3)}, 6),  # adds nothing to any score
        ({"input_ids": IDS, "attention_mask": CAUSAL.repeat_interleave(2, 0)}, 5),  # one mask a head
        ({"input_ids": IDS, "attention_mask": torch.tril(torch.ones(1, 1, 3, 3))}, 6),  # the same for all rows
        ({"input_ids": IDS, "attention_mask": torch.ones(3, 3)}, None),
        ({"input_ids": IDS, "attention_mask": torch.ones(5, 3, 3)}, None),
        ({"a_attention_mask": MASK, "b_attention_mask": MASK[:1], "a_input_ids": IDS}, 8),
        ((ENCODED, LABELS), 5),
        ({"inputs": ENCODED}, 5),
        ([ENCODED, ENCODED], 10),
        (Fields(IDS, MASK), 5),
        (SimpleNamespace(**ENCODED), 5),
        (UserDict(ENCODED), 5),
        ([{"input_ids": [5, 6], "attention_mask": [1, 1]}, {"input_ids": [5, 0], "attention_mask": [1, 0]}], 3),
        ([ENCODED, {"input_ids": IDS}], None),  # a part would pass for the whole
        ({"input_ids": IDS}, None),  # perhaps padded
        ({"x": X}, None),
        ((X, LABELS), None),
        (X, None),
    ],
)
def test_tokens_in_batches_of_any_structure(batch: Any, tokens: int | None) -> None:
    counted = tokens_in(batch)
    assert (None if counted is None else int(counted)) == tokens


def test_unreadable_batches_not_counted() -> None:
    for batch in (Broken(), BrokenMapping(), [Broken(), Broken()], {"input_ids": Broken()}, (Broken(), X)):
        assert samples_in(batch) is tokens_in(batch) is None


def test_scalar_loss_reshaped_or_refused() -> None:
    loss = scalar_loss(torch.ones(1, requires_grad=True))
    assert (loss.shape, loss.requires_grad) == (torch.Size([]), False)
    assert scalar_loss(0.5).item() == 0.5
    with pytest.raises(ValueError, match=r"loss must be a scalar, got shape \(2,\)"):
        scalar_loss(torch.ones(2))


def test_masks_by_row_found_in_any_structure() -> None:
    ids, mask = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)
    plain = {"input_ids": ids, "attention_mask": mask}
    found = {
        "plain": (plain, 1),
        "pair": ([plain, plain], 2),
        "named": ({"chosen_input_ids": ids, "chosen_attention_mask": mask, "rejected_attention_mask": mask}, 2),
        "nested": (({"text": plain}, torch.ones(2)), 1),
        "packed": ({"input_ids": ids}, None),
        "partly packed": ([plain, {"input_ids": ids}], None),
        "four dimensions": ({"input_ids": ids, "attention_mask": mask[:, None, None]}, None),
        "floats": ({"input_ids": ids, "attention_mask": mask.float()}, 1),
        "none": ({"pixels": torch.ones(2, 3)}, None),
        "object": (object(), None),
    }
    counts = {name: masks_in(batch) for name, (batch, _) in found.items()}
    assert {name: None if masks is None else len(masks) for name, masks in counts.items()} == {
        name: number for name, (_, number) in found.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_masks_of_any_type_keep_same_positions(dtype: torch.dtype) -> None:
    kept = torch.tensor([[1, 1, 0], [1, 0, 0]])
    masks = [kept.to(dtype)]
    if dtype.is_floating_point:
        masks.append((1 - kept).to(dtype) * -1e4)  # to add to the scores
    for mask in masks:
        (found,) = masks_in({"input_ids": kept, "attention_mask": mask}) or [None]
        assert found is not None
        assert torch.equal(found != 0, kept != 0)
    assert not any(found.is_floating_point() for found in masks_in({"attention_mask": masks[0]}) or [])
