"""Tests `check_training` with the real Trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from tbx_callbacks.runs import read_run
from tbx_callbacks.training_check import TrainingCheck
from tests.helpers.models import bert


def rows(number: int = 320) -> list[dict[str, Any]]:
    ids = torch.randint(5, 50, (number, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": (row[0] > 27).long()} for row in ids]


class Softmaxed(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs.logits.softmax(-1), labels)
        return (loss, outputs) if return_outputs else loss


def trainer_of(folder: Path, cls: type[Trainer] = Trainer) -> Trainer:
    arguments = TrainingArguments(
        str(folder),
        learning_rate=2e-3,
        per_device_train_batch_size=8,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    return cls(bert(0), arguments, train_dataset=rows())


def test_training_check_huggingface_healthy_passes(tmp_path: Path) -> None:
    check = TrainingCheck(tmp_path / "checked")
    trainer = trainer_of(tmp_path / "out")
    check(trainer, steps=40)
    assert trainer.state.global_step == 40
    assert len(read_run(check.folder).scalars["train/loss"]) == 40
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_training_check_huggingface_softmax_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="double_softmax"):
        TrainingCheck(tmp_path / "checked")(trainer_of(tmp_path / "out", Softmaxed), steps=5, allow=["unjudged"])


class Module(pl.LightningModule):
    def __init__(self, sign: int) -> None:
        super().__init__()
        self.layer, self.sign = torch.nn.Linear(8, 2), sign

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return self.sign * F.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


@pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests
@pytest.mark.parametrize("sign", [1, -1])
def test_training_check_lightning_judges_fit(tmp_path: Path, sign: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(640, 8)
    loader = DataLoader(list(zip(inputs, (inputs[:, 0] > 0).long(), strict=True)), batch_size=16)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path / "out", logger=False)
    check = TrainingCheck(tmp_path / "checked")
    if sign == 1:
        check(trainer, Module(1), loader, steps=60)  # more than an epoch
        assert trainer.global_step == 60
        assert not list(tmp_path.rglob("*.ckpt"))
    else:
        with pytest.raises(AssertionError, match="loss_maximised"):
            check(trainer, Module(-1), loader, steps=40)
