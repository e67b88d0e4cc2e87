"""Tests that the input share counts only the time that waits for data, on a clock that only the test moves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run

FETCH, WORK, LOG, EVALUATE, SAVE = 1.0, 3.0, 16.0, 1000.0, 500.0
SET = {"every": 1, "metrics": ["input_share", "throughput"]}


class Clock:
    """A clock that moves only when the test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def fetched(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        self.now += FETCH
        return collate(batch)


def set_clock(callback: Any) -> Clock:
    clock = Clock()
    callback._session._engine.stopwatch.clock = clock
    return clock


def shares(folder: str | Path | None) -> dict[int, float]:
    return {step: round(value, 6) for step, value in Run(folder).scalars["perf/input_share"]}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("strategy", ["no", "steps", "epoch"])
def test_input_share_under_huggingface_excludes_evaluation_and_saving(
    tmp_path: Path, accumulate: int, strategy: str
) -> None:
    callback = TbxTrainerCallback(SET)
    clock = set_clock(callback)

    class TimedTrainer(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            clock.now += WORK
            return super().training_step(*args, **kwargs)

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            clock.now += LOG if "loss" in logs else 0
            super().log(logs, *args, **kwargs)

        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            clock.now += EVALUATE
            return super().evaluate(*args, **kwargs)

        def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            clock.now += SAVE
            super()._save_checkpoint(*args, **kwargs)

    run = trainer(
        tmp_path,
        cls=TimedTrainer,
        callbacks=[callback],
        gradient_accumulation_steps=accumulate,
        max_steps=16 // accumulate,
        logging_steps=4,
        eval_strategy=strategy,
        save_strategy=strategy,
        eval_steps=3,
        save_steps=3,
    )
    run.data_collator = clock.fetched
    run.train()
    share_by_step, last = shares(callback.log_dir), 8 // accumulate
    assert 1 not in share_by_step  # the callback does not see the request for the first batch
    quiet = FETCH / (FETCH + WORK)
    assert share_by_step[2] == quiet
    assert share_by_step[3] == quiet
    logged = {step: accumulate * FETCH / (accumulate * (FETCH + WORK) + LOG) for step in share_by_step if step % 4 == 1}
    assert {step: share_by_step[step] for step in logged if step <= last} == {
        step: round(share, 6) for step, share in logged.items() if step <= last
    }
    assert max(share_by_step.values()) <= 2 * quiet  # Accelerate fetches an epoch's first two batches together
    if strategy == "steps":
        assert 4 not in share_by_step  # evaluation and saving came before it


class Module(pl.LightningModule):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.net, self.clock = bert(), clock

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.clock.now += WORK
        return self.net(**batch).loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.clock.now += EVALUATE

    def on_save_checkpoint(self, checkpoint: Any) -> None:
        self.clock.now += SAVE

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


def test_input_share_under_lightning_excludes_validation_and_saving(tmp_path: Path) -> None:
    callback = TbxLightningCallback(SET, log_dir=tmp_path / "run")
    clock = set_clock(callback)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pl.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_steps=16,
            val_check_interval=3,
            check_val_every_n_epoch=None,
            log_every_n_steps=5,
            callbacks=[callback, pl.callbacks.ModelCheckpoint(tmp_path / "kept", every_n_train_steps=4)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = DataLoader(rows(32), batch_size=4, collate_fn=clock.fetched)
        run.fit(Module(clock), data, DataLoader(rows(4), batch_size=4, collate_fn=collate))
    share_by_step = shares(tmp_path / "run")
    after = {1 + step for step in range(1, 16) if step % 3 == 0 or step % 4 == 0}  # a validation, a checkpoint
    assert set(share_by_step) == set(range(1, 17)) - after | {9}  # the first step of an epoch: waiting begins with it
    assert set(share_by_step.values()) == {FETCH / (FETCH + WORK)}
    seconds = dict(Run(tmp_path / "run").scalars["perf/step_s"])
    assert set(seconds.values()) <= {WORK, FETCH + WORK}  # neither validation nor saving


def test_input_share_in_loop_without_track_not_written(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def batches(clock: Clock, number: int) -> Any:
        for _ in range(number):
            clock.now += FETCH
            yield torch.randn(3, 2)
        clock.now += LOG  # after the last batch: this is not waiting for data

    def train(loop: TbxLoop, clock: Clock, given: Any) -> None:
        for batch in given:
            clock.now += WORK
            model(batch).sum().backward()
            optimizer.step()
            loop.end_step()

    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "tracked", log_every=1) as loop:
        clock = set_clock(loop)
        loop._session._engine.stopwatch._resumed_at = 0.0
        train(loop, clock, loop.track(batches(clock, 4)))
        model.eval()
        for _ in loop.track(batches(clock, 5)):
            clock.now += WORK
        model.train()
        train(loop, clock, loop.track(batches(clock, 2)))
    share_by_step = shares(tmp_path / "tracked")
    quiet = FETCH / (FETCH + WORK)
    assert share_by_step == dict.fromkeys(range(1, 7), quiet)  # the evaluation is not training time
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "plain", log_every=1) as loop:
        train(loop, set_clock(loop), batches(Clock(), 4))
    assert "perf/input_share" not in Run(tmp_path / "plain").scalars
