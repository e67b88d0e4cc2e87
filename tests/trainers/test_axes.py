"""Tests the axes of samples, tokens and epochs under the trainers, across a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tbx_callbacks import TbxLightningCallback, TbxTrainerCallback
from tests.helpers.axes import AXES_SET as SET
from tests.helpers.axes import along
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run


class StopAt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt


@pytest.mark.parametrize("attach", [False, True])
def test_huggingface_axes_over_resume_continue(tmp_path: Path, attach: bool) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4, "max_steps": 10, "eval_strategy": "steps", "eval_steps": 5}
    for resume in (False, True):
        callback = TbxTrainerCallback(SET, log_dir=tmp_path / "run")
        others = [] if resume else [StopAt()]
        run = trainer(tmp_path / "out", callbacks=[callback, *others], gradient_accumulation_steps=2, **saving)
        if attach:
            callback.attach(run)
        if resume:
            run.train(resume_from_checkpoint=True)
        else:
            with pytest.raises(KeyboardInterrupt):
                run.train()
        callback.close()
    assert Run(tmp_path / "run").steps("train/loss") == [2, 4, 6, 8, 10]
    samples = along(tmp_path / "run", "samples")
    assert samples.steps("train/loss") == [16, 32, 48, 64, 80]  # two batches of four a step
    assert samples.steps("eval/accuracy") == [40, 80]
    assert along(tmp_path / "run", "epochs").steps("train/loss") == [500, 1000, 1500, 2000, 2500]  # 32 rows
    tokens = along(tmp_path / "run", "tokens").steps("train/loss")
    of_an_epoch = sum(sum(row["attention_mask"]) for row in rows())
    assert tokens[1::2] == [of_an_epoch, 2 * of_an_epoch]


@pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests
def test_lightning_axes_over_resume_continue(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = bert()

        def training_step(self, batch: Any, index: int) -> Any:
            return self.net(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    batches = torch.utils.data.DataLoader(rows(), batch_size=4, collate_fn=collate)
    options: dict[str, Any] = {
        "default_root_dir": tmp_path,
        "max_epochs": -1,
        "log_every_n_steps": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    callback = TbxLightningCallback(SET)
    run = pl.Trainer(callbacks=[callback], max_steps=6, **options)
    run.fit(Classifier(), batches)
    run.save_checkpoint(tmp_path / "at6.ckpt")
    callback.close()
    again = TbxLightningCallback(SET)
    pl.Trainer(callbacks=[again], max_steps=10, **options).fit(Classifier(), batches, ckpt_path=tmp_path / "at6.ckpt")
    assert along(again.log_dir, "samples").steps("train/loss") == [8, 16, 24, 32, 40]
    epochs = [round(1000 * epoch) for _, epoch in Run(again.log_dir).scalars["train/epoch"]]
    assert along(again.log_dir, "epochs").steps("train/loss") == epochs
    real = [sum(row["attention_mask"]) for row in rows()]  # in order
    tokens = along(again.log_dir, "tokens").steps("train/loss")
    assert tokens[:3] == [sum(real[:8]), sum(real[:16]), sum(real[:24])]
    assert tokens == sorted(tokens)
