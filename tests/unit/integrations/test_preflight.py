"""Tests the checks before a training, and that they leave everything as it was."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, Dataset

from tbx_callbacks import preflight

ROWS, WORDS, LENGTH = 64, 50, 12


class Net(nn.Module):
    """Classifies the mean of its embeddings."""

    def __init__(self, *, softmax: bool = False) -> None:
        super().__init__()
        self.embed, self.drop, self.norm = nn.Embedding(WORDS, 16), nn.Dropout(0.1), nn.BatchNorm1d(16)
        self.head, self.softmax, self.cuts = nn.Linear(16, 3), softmax, False
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        self.calls = self.calls + 1  # another tensor
        kept = torch.ones_like(ids) if mask is None else mask
        hidden = (self.embed(ids) * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
        logits: Tensor = self.head(self.drop(self.norm(hidden.detach() if self.cuts else hidden)))
        return logits.softmax(-1) if self.softmax else logits


class Rows(Dataset[dict[str, Tensor]]):
    def __init__(self, fault: str) -> None:
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(4, LENGTH, (ROWS,), generator=generator)
        self.mask = (torch.arange(LENGTH)[None] < lengths[:, None]).long()
        self.ids = torch.randint(2, WORDS, (ROWS, LENGTH), generator=generator) * self.mask
        self.labels = torch.randint(0, 3, (ROWS,), generator=generator)
        self.repeats = 8 if fault == "repeated_batches" else ROWS
        if fault == "labels_out_of_range":
            self.labels[50] = 7
        if fault == "labels_ignored":
            self.labels[:] = -100
        if fault == "labels_sorted":
            self.labels = self.labels.sort().values

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        at = index % self.repeats
        return {"input_ids": self.ids[at], "attention_mask": self.mask[at], "labels": self.labels[at]}


def arguments(fault: str = "") -> dict[str, Any]:
    torch.manual_seed(0)
    model = Net(softmax=fault == "double_softmax")
    model.cuts = fault == "no_gradient"
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    if fault == "parameter_not_in_model":
        model.head = nn.Linear(16, 3)
    rows, generator = Rows(fault), torch.Generator().manual_seed(3)
    shuffle = fault not in ("labels_sorted", "repeated_batches")
    others = Rows("")
    if fault != "evaluation_rows_in_training":
        others.ids = others.ids.flip(0) + 1

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = net(batch["input_ids"], None if fault == "padding_attended" else batch["attention_mask"])
        return F.cross_entropy(logits, batch["labels"]), logits

    return {
        "model": model,
        "batches": DataLoader(rows, batch_size=8, shuffle=shuffle, generator=generator),
        "optimizers": optimizer,
        "loss": loss,
        "evaluation": DataLoader(others, batch_size=8),
    }


FAULTS = [
    "double_softmax",
    "labels_ignored",
    "labels_out_of_range",
    "labels_sorted",
    "no_gradient",
    "parameter_not_in_model",
    "padding_attended",
    "evaluation_rows_in_training",
    "repeated_batches",
]


def snapshot(given: dict[str, Any]) -> list[Any]:
    model, loader = given["model"], given["batches"]
    tensors: Iterable[Tensor] = [*model.state_dict().values()]
    return [
        *(tensor.clone() for tensor in tensors),
        torch.get_rng_state(),
        loader.generator.get_state(),
        torch.tensor([module.training for module in model.modules()]),
        torch.tensor([parameter.grad is None for parameter in model.parameters()]),
        torch.tensor(np.random.get_state()[1].astype(np.int64)),  # type: ignore[index,union-attr]
        torch.tensor(random.getstate()[1][:600]),
    ]


@pytest.mark.parametrize("fault", FAULTS)
def test_preflight_names_fault_and_changes_nothing(fault: str) -> None:
    given = arguments(fault)
    given["model"].head.eval()
    before = snapshot(given)
    result = preflight(**given)
    assert fault in {finding.id for finding in result.diagnosis.findings}
    assert all(map(torch.equal, before, snapshot(given)))


def test_preflight_healthy_training_nothing_found() -> None:
    result = preflight(**arguments())
    assert result.diagnosis.findings == ()
    assert result.diagnosis.verdict.kind == "nothing_found"
    assert {"padding_attended", "repeated_batches", "no_gradient", "labels_ignored"} <= result.checks.keys()


def test_preflight_same_training_with_and_without() -> None:
    def train(*, checks: bool) -> list[Tensor]:
        given = arguments()
        if checks:
            preflight(**given)
        for batch in given["batches"]:
            given["optimizers"].zero_grad()
            given["loss"](given["model"], batch)[0].backward()
            given["optimizers"].step()
        return list(given["model"].state_dict().values())

    assert all(map(torch.equal, train(checks=False), train(checks=True)))


def test_preflight_gradients_of_user_kept() -> None:
    given = arguments()
    given["model"].head.weight.grad = kept = torch.full((3, 16), 2.0)
    preflight(**given)
    assert given["model"].head.weight.grad is kept
    assert bool((kept == 2).all())


def test_preflight_one_batch_without_optimizer() -> None:
    given = arguments("double_softmax")
    batch = next(iter(given["batches"]))
    result = preflight(given["model"], batch, loss=given["loss"])
    assert [finding.id for finding in result.diagnosis.findings] == ["double_softmax"]
    assert "repeated_batches" not in result.checks


def test_preflight_error_of_model_raised_and_put_back() -> None:
    given = arguments()

    def broken(net: nn.Module, batch: Any) -> Tensor:
        net(batch["input_ids"], None)
        raise ValueError("a bug of the user")

    before = snapshot(given)
    with pytest.raises(ValueError, match="a bug of the user"):
        preflight(**{**given, "loss": broken})
    assert all(map(torch.equal, before, snapshot(given)))


def test_preflight_labels_out_of_range_hide_no_error() -> None:
    given = arguments("labels_out_of_range")

    def broken(net: nn.Module, batch: Any) -> Tensor:
        net(batch["input_ids"], None)
        raise KeyError("a bug of the user")

    with pytest.raises(KeyError, match="a bug of the user"):
        preflight(**{**given, "loss": broken})


def test_preflight_labels_that_loss_accepts_are_note() -> None:
    given = arguments("labels_out_of_range")

    def clamped(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = net(batch["input_ids"], batch["attention_mask"])
        return F.cross_entropy(logits, batch["labels"].clamp(max=2)), logits

    batch = {**next(iter(given["batches"])), "labels": torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])}
    for batches in (batch, [batch] * 4):
        result = preflight(given["model"], batches, loss=clamped)
        (found,) = (each for each in result.diagnosis.findings if each.id == "labels_out_of_range")
        assert found.severity == "note"


def test_preflight_cut_in_one_batch_found() -> None:
    given = arguments("no_gradient")
    result = preflight(given["model"], next(iter(given["batches"])), loss=given["loss"], optimizers=given["optimizers"])
    assert "no_gradient" in {finding.id for finding in result.diagnosis.findings}
    assert not any(module._forward_hooks for module in given["model"].modules())


def test_preflight_rare_label_that_loss_ignores_is_note() -> None:
    """It first stands in the fifth batch, behind those of which the loss is computed."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    batches = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(6)]
    batches[4][1][0] = 255

    def ignoring(net: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        logits = net(batch[0])
        return F.cross_entropy(logits, batch[1], ignore_index=255), logits

    def strict(net: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        logits = net(batch[0])
        return F.cross_entropy(logits, batch[1]), logits

    for loss, severity in ((ignoring, "note"), (strict, "error")):
        findings = preflight(model, batches, loss=loss).diagnosis.findings
        assert [each.severity for each in findings if each.id == "labels_out_of_range"] == [severity]


def test_preflight_sparse_input_not_compared() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, rows: Tensor, adjacency: Tensor) -> Tensor:
            return torch.sparse.mm(adjacency, self.layer(rows))

    def loss(net: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        logits = net(batch[0], batch[1])
        return F.cross_entropy(logits, batch[2]), logits

    batch = [torch.randn(6, 4), torch.eye(6).to_sparse(), torch.randint(0, 3, (6,))]
    result = preflight(Graph(), [batch] * 4, loss=loss)
    assert "repeated_batches" not in result.checks
    assert result.checks["no_gradient"][0] == 0


def test_preflight_labels_of_one_batch_out_of_range() -> None:
    given = arguments()
    batch = {**next(iter(given["batches"])), "labels": torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])}
    result = preflight(given["model"], batch, loss=given["loss"])
    assert result.checks["labels_out_of_range"][0] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": 3}, r"model must be a torch\.nn\.Module, got int; pass"),
        ({"batches": []}, r"batches must hold at least one batch, got \[\]; pass the data loader"),
        ({"loss": lambda net, batch: 3.0}, r"loss must return a tensor with one element, got 3\.0; reduce it"),
        ({"loss": None, "batches": [(torch.ones(2, 3),)]}, "loss must be given for batches of type tuple; pass loss="),
    ],
)
def test_preflight_bad_argument_clear_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        preflight(**{**arguments(), **change})
