"""Tests the loss scale under each trainer on the CPU, with gradients that overflow at chosen passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from transformers import Trainer

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run

SET: dict[str, Any] = {
    "every": 2,
    "metrics": ["amp", *({name: {"by": "total", "every": 1}} for name in ("update_norm", "optimizer_state"))],
}
BAD = (1, 4, 5)  # passes with an Inf in the gradients
FUSED = pytest.mark.parametrize("fused", [False, True])


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)


def scales(passes: int) -> dict[int, float]:
    """The loss scale as GradScaler computes it: half after each bad pass, double after three good ones in a row."""
    found, scale, good = {}, 1024.0, 0
    for number in range(1, passes + 1):
        good = 0 if number in BAD else good + 1
        scale = scale / 2 if number in BAD else scale * 2 if good == 3 else scale
        good = good % 3
        found[number] = scale
    return found


def expected(fused: bool, passes: int, *, all_count: bool = False) -> dict[int, tuple[float, int]]:
    """The scale after the step, and the skipped steps since the last point, every two steps."""
    step = skipped = 0
    points: dict[int, tuple[float, int]] = {}
    for number in range(1, passes + 1):
        bad = number in BAD
        skipped += bad
        if all_count or fused or not bad:
            step += 1
            if step % 2 == 0:
                points[step] = scales(passes)[number], skipped
                skipped = 0
    return points


def check(read: Run, points: dict[int, tuple[float, int]]) -> None:
    assert read.at("amp/scale") == {step: scale for step, (scale, _) in points.items()}
    assert read.at("amp/skipped_steps") == {step: skipped for step, (_, skipped) in points.items()}


def loader() -> Any:
    return torch.utils.data.DataLoader(rows(40), batch_size=4, collate_fn=collate)


def spoil(model: nn.Module) -> None:
    next(model.parameters()).grad.view(-1)[0] = torch.inf


@FUSED
def test_amp_in_loop_writes_scale_and_skipped_steps(tmp_path: Path, fused: bool) -> None:
    model, scale = bert(), scaler()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=2, scaler=scale) as loop:
        for number, batch in enumerate(loader(), 1):
            scale.scale(model(**batch).loss).backward()
            if number in BAD:
                spoil(model)
            scale.step(optimizer)
            scale.update()
            optimizer.zero_grad()
            loop.end_step()
    read = Run(tmp_path)
    check(read, expected(fused, 10))
    assert read.steps("update_norm/total") == ([2, 3, 6, 7, 8, 9, 10] if fused else list(range(1, 8)))
    assert read.steps("optimizer_state/effective_lr/total") == read.steps("update_norm/total")


@FUSED
@pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests
def test_amp_under_lightning_writes_scale_and_skipped_steps(tmp_path: Path, fused: bool) -> None:
    class Spoiled(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.passes = bert(), 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=fused)

        def on_after_backward(self) -> None:
            self.passes += 1
            if self.passes in BAD:
                spoil(self.net)

    callback = TbxLightningCallback(SET)
    run = pl.Trainer(
        default_root_dir=tmp_path,
        callbacks=[callback],
        plugins=[MixedPrecision("16-mixed", "cpu", scaler())],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    run.fit(Spoiled(), loader())
    check(Run(callback.log_dir), expected(fused, 10, all_count=True))


class Scaled(Trainer):
    """Sets the GradScaler by hand, since Accelerate refuses float16 on a CPU."""

    fused = False
    bad: tuple[int, ...] = BAD

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=self.fused)
        return self.optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        if self.state.global_step + 1 in self.bad:
            spoil(self.model)
        return loss


@FUSED
@pytest.mark.parametrize("attached", [True, False])
def test_amp_under_huggingface_writes_scale_and_skipped_steps(tmp_path: Path, fused: bool, attached: bool) -> None:
    callback = TbxTrainerCallback(SET)
    run = trainer(tmp_path, cls=Scaled, callbacks=[callback], max_steps=10, max_grad_norm=0.0)
    run.fused = fused
    run.accelerator.scaler = scaler()
    if attached:
        callback.attach(run)
    run.train()
    read = Run(callback.log_dir)
    check(read, expected(fused, 10, all_count=True))
    assert read.steps("update_norm/total") == [2, 3, 6, 7, 8, 9, 10]
    assert read.steps("optimizer_state/effective_lr/total") == read.steps("update_norm/total")


def test_amp_under_huggingface_all_steps_skipped(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(SET)
    run = trainer(tmp_path, cls=Scaled, callbacks=[callback], max_steps=4, max_grad_norm=0.0)
    run.bad = (1, 2, 3, 4)
    run.accelerator.scaler = scaler()
    run.train()
    read = Run(callback.log_dir)
    assert read.at("amp/skipped_steps") == {2: 2.0, 4: 2.0}
    assert read.at("amp/scale") == {2: 256.0, 4: 64.0}
    assert read.family("update_norm") == set()


def test_amp_without_loss_scale_writes_nothing(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(SET)
    trainer(tmp_path, callbacks=[callback]).train()
    assert Run(callback.log_dir).family("amp") == set()
