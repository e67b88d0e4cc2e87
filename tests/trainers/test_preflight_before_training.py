"""Tests preflight before a trainer has created its optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn

from tbx_callbacks import TbxLightningCallback, TbxTrainerCallback, preflight
from tests.helpers.models import bert, trainer


class Net(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class OfTrainer(Net):
    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return super().training_step(batch, index) * self.trainer.world_size


class WithoutIndex(Net):
    def training_step(self, batch: Any) -> torch.Tensor:  # type: ignore[override]
        return super().training_step(batch, 0)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Manual, "the module must not optimize by itself, got Manual; call tbx_callbacks.preflight"),
        (OfTrainer, "training_step must do without a Trainer, got OfTrainer is not attached"),
    ],
)
def test_lightning_preflight_module_needs_trainer(cls: type[Net], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        TbxLightningCallback().preflight(cls(), [(torch.ones(4, 4), torch.tensor([0, 1, 1, 0]))])


@pytest.mark.parametrize(("labels", "wrong"), [([0, 1, 1, 0], set()), ([0, 1, 2, 0], {"labels_out_of_range"})])
def test_lightning_preflight_step_without_index(labels: list[int], wrong: set[str]) -> None:
    result = TbxLightningCallback().preflight(WithoutIndex(), [(torch.randn(4, 4), torch.tensor(labels))])
    assert {finding.id for finding in result.diagnosis.findings if finding.severity == "error"} == wrong


def test_huggingface_preflight_before_training_ends(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(log_dir=tmp_path / "run")
    made = trainer(tmp_path, callbacks=[callback])
    callback.attach(made)
    assert made.optimizer is None
    checks = callback.preflight().checks
    assert checks["first_loss_not_finite"][0] == 0
    assert checks["no_gradient"][0] == 0
    assert "parameter_not_optimized" not in checks  # there is no optimizer yet


def test_lightning_preflight_before_training_ends(tmp_path: Path) -> None:
    callback = TbxLightningCallback(log_dir=tmp_path / "run")
    batches = [(torch.randn(8, 4), torch.arange(8) % 2)] * 3
    checks = callback.preflight(Net(), batches).checks
    assert checks["first_loss_not_finite"][0] == 0
    assert checks["repeated_batches"][0] == 3
    with pytest.raises(TypeError, match="batches must hold at least one batch"):
        callback.preflight(Net(), [])


def test_preflight_labels_out_of_range_before_forward() -> None:
    model, passes = bert(num_labels=2), list[Any]()
    model.register_forward_hook(lambda *_: passes.append(1))
    batch = {"input_ids": torch.ones(4, 8).long(), "labels": torch.tensor([0, 1, 2, 1])}
    assert [finding.id for finding in preflight(model, batch).diagnosis.findings] == ["labels_out_of_range"]
    assert passes == []
