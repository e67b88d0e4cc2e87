"""Tests the parts of a step under each trainer, on a clock that only the test moves: each part has its own amount."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run
from tests.trainers.test_input_share import Clock, set_clock

FETCH, FORWARD, BACKWARD, CLIP, STEP, CALLBACK, EVALUATE, SAVE, SCHEDULE = (2.0**n for n in range(9))
SET = {"every": 1, "metrics": ["time"]}
PARTS = ("data", "forward", "backward", "clip", "optimizer", "callbacks", "evaluation", "saving", "monitoring", "other")


def parts(folder: str | Path | None) -> dict[int, dict[str, float]]:
    """Seconds of each part that took time, by step."""
    scalars = Run(folder).scalars
    found: dict[int, dict[str, float]] = {}
    for part in PARTS:
        for step, seconds in scalars.get(f"time/{part}_s", []):
            if seconds:
                found.setdefault(step, {})[part] = seconds
    return found


class TickingNet(nn.Module):
    """A BERT whose forward and backward pass take time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.net, self.clock = bert(), clock

    def forward(self, **batch: Any) -> Any:
        self.clock.now += FORWARD
        outputs = self.net(**{name: column for name, column in batch.items() if name != "num_items_in_batch"})
        if outputs.logits.requires_grad:
            outputs.logits.register_hook(self._tick)
        return outputs

    def _tick(self, gradient: Tensor) -> None:
        self.clock.now += BACKWARD


class TickingSgd(torch.optim.SGD):
    """SGD whose step takes time."""

    clock: Clock

    def _init_group(self, *args: Any, **kwargs: Any) -> Any:
        self.clock.now += STEP
        return super()._init_group(*args, **kwargs)


def sgd(model: nn.Module, clock: Clock) -> TickingSgd:
    optimizer = TickingSgd(model.parameters(), lr=1e-2)
    optimizer.clock = clock
    return optimizer


class TickingCallback(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.now += CALLBACK


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("attached", [True, False], ids=["attached", "plain"])
def test_huggingface_parts_exact(tmp_path: Path, attached: bool, accumulate: int) -> None:
    callback = TbxTrainerCallback(SET)
    clock = set_clock(callback)
    model = TickingNet(clock)
    optimizer = sgd(model, clock)

    class Ticking(Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            clock.now += EVALUATE
            return super().evaluate(*args, **kwargs)

        def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            clock.now += SAVE
            super()._save_checkpoint(*args, **kwargs)

    class Scheduler(torch.optim.lr_scheduler.LambdaLR):
        def step(self, *args: Any) -> None:
            clock.now += SCHEDULE
            super().step(*args)

    run = trainer(
        tmp_path,
        cls=Ticking,
        model=model,
        gradient_accumulation_steps=accumulate,
        max_steps=6,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        remove_unused_columns=False,
    )
    run.optimizer, run.lr_scheduler = optimizer, Scheduler(optimizer, lambda _: 1.0)
    run.train_dataset = rows(64)
    clock.now = 0.0  # the scheduler steps when it is created
    run.data_collator = clock.fetched
    original = run.accelerator.clip_grad_norm_

    def clip(*args: Any, **kwargs: Any) -> Any:
        clock.now += CLIP
        return original(*args, **kwargs)

    run.accelerator.clip_grad_norm_ = clip
    if attached:
        callback.attach(run)
        run.add_callback(TickingCallback(clock))
    else:
        run.add_callback(callback)
        run.add_callback(TickingCallback(clock))
    run.train()
    found = parts(callback.log_dir)
    usual = {
        "data": FETCH * accumulate,
        "forward": FORWARD * accumulate,
        "backward": BACKWARD * accumulate,
        "clip": CLIP,
        "optimizer": STEP,
        "callbacks": CALLBACK,
        "other": SCHEDULE,
    }
    evaluated = len(range(0, 16, 8)) * FORWARD
    if not attached:  # what only wrapped methods tell is in the time between steps
        usual["data"] += usual.pop("callbacks")
    assert found[3] == usual  # from the third optimizer step back to the second one
    after = {**usual, "evaluation": found[4]["evaluation"], "saving": SAVE}
    assert found[4]["evaluation"] >= EVALUATE + evaluated
    if not attached:  # nothing tells where the evaluation begins and when the next batch is asked for
        del after["data"]
        assert {**found[4], "evaluation": 0.0, "other": 0.0} == {**after, "evaluation": 0.0, "other": 0.0}
    else:
        assert found[4] == after
    seconds = Run(callback.log_dir).at("time/left_s")
    assert seconds[6] == 0.0
    assert seconds[5] > 0


class Module(pl.LightningModule):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.net, self.clock = TickingNet(clock), clock

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.net(**batch).loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.clock.now += EVALUATE

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        self.clock.now += CLIP

    def configure_optimizers(self) -> Any:
        return sgd(self, self.clock)


class Waiting(pl.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *args: Any) -> None:
        self.clock.now += CALLBACK

    def on_save_checkpoint(self, *args: Any) -> None:
        self.clock.now += SAVE


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_parts_exact(tmp_path: Path, accumulate: int) -> None:
    callback = TbxLightningCallback(SET, log_dir=tmp_path / "run")
    clock = set_clock(callback)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pl.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_steps=6,
            accumulate_grad_batches=accumulate,
            val_check_interval=3 * accumulate,
            check_val_every_n_epoch=None,
            callbacks=[callback, Waiting(clock), pl.callbacks.ModelCheckpoint(tmp_path / "kept")],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        data = DataLoader(rows(64), batch_size=4, collate_fn=clock.fetched)
        run.fit(Module(clock), data, DataLoader(rows(4), batch_size=4, collate_fn=collate))
    found = parts(tmp_path / "run")
    usual = {
        "data": FETCH * accumulate,
        "forward": FORWARD * accumulate,
        "backward": BACKWARD * accumulate,
        "clip": CLIP,
        "optimizer": STEP,
        "callbacks": CALLBACK * accumulate,
    }
    assert found[2] == found[3] == usual
    assert found[4] == {**usual, "evaluation": EVALUATE, "callbacks": usual["callbacks"] + SAVE}
    assert "start" not in vars(run.profiler)


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_loop_parts_exact(tmp_path: Path, tracked: bool, accumulate: int) -> None:
    clock = Clock()
    model = TickingNet(clock)
    optimizer = sgd(model, clock)
    given = rows(4)

    def batches() -> Any:
        for _ in range(6 * accumulate):
            clock.now += FETCH
            yield collate(given)

    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "run") as loop:
        loop._session._engine.stopwatch.clock = clock
        loop._session._engine.stopwatch.times._since = 0.0
        model.train()
        for number, batch in enumerate(loop.track(batches()) if tracked else batches(), 1):
            model(**batch).loss.backward()
            if number % accumulate == 0:
                clock.now += CLIP
                optimizer.step()
                clock.now += SCHEDULE
                optimizer.zero_grad()
            loop.end_step()
            if number == 3 * accumulate:
                with loop.evaluation():
                    clock.now += EVALUATE
            if number == 4 * accumulate:
                clock.now += EVALUATE
                loop.evaluate(score=1.0)
    found = parts(tmp_path / "run")
    usual = {
        "data": FETCH * accumulate,
        "forward": FORWARD * accumulate,
        "backward": BACKWARD * accumulate,
        "clip": CLIP,
        "optimizer": STEP,
        "other": SCHEDULE,
    }
    if not tracked:
        usual["other"] += usual.pop("data")
    assert found[2] == found[3] == found[6] == usual
    assert found[4] == found[5] == {**usual, "evaluation": EVALUATE}
    assert "time/left_s" not in Run(tmp_path / "run").scalars


def test_loop_training_in_eval_mode_has_parts(tmp_path: Path) -> None:
    clock = Clock()
    model = TickingNet(clock)
    optimizer = sgd(model, clock)

    def batches(number: int) -> Any:
        for _ in range(number):
            clock.now += FETCH
            yield collate(rows(4))

    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "run") as loop:
        loop._session._engine.stopwatch.clock = clock
        loop._session._engine.stopwatch.times._since = 0.0
        model.eval()
        for epoch in range(2):
            for batch in loop.track(batches(3)):
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                loop.end_step()
            if epoch == 0:
                with torch.no_grad():
                    for batch in loop.track(batches(2)):
                        model(**batch)
    found = parts(tmp_path / "run")
    usual = {"data": FETCH, "forward": FORWARD, "backward": BACKWARD, "optimizer": STEP}
    assert found[2] == found[3] == found[5] == found[6] == usual
    assert found[4]["data"] == FETCH
    assert found[4]["evaluation"] == 2 * (FETCH + FORWARD)


def test_lbfgs_closure_passes_are_no_optimizer_time(tmp_path: Path) -> None:
    clock = Clock()
    model = TickingNet(clock)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2, lr=1e-3)
    batch = collate(rows(4))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(**batch).loss
        loss.backward()
        return loss

    with TbxLoop(model, optimizer, SET, log_dir=tmp_path / "run") as loop:
        loop._session._engine.stopwatch.clock = clock
        loop._session._engine.stopwatch.times._since = 0.0
        for _ in range(3):
            optimizer.step(closure)
            loop.end_step()
    assert parts(tmp_path / "run")[2] == {"forward": 2 * FORWARD, "backward": 2 * BACKWARD}


def test_training_with_time_bit_identical(tmp_path: Path) -> None:
    def weights(metrics: list[str]) -> list[Tensor]:
        callback = TbxTrainerCallback({"every": 1, "metrics": metrics}, log_dir=tmp_path / metrics[-1])
        run = trainer(tmp_path, max_steps=4, gradient_accumulation_steps=2)
        callback.attach(run)
        run.train()
        return [parameter.detach().clone() for parameter in run.model.parameters()]

    for with_it, without in zip(weights(["loss", "time"]), weights(["loss"]), strict=True):
        assert torch.equal(with_it, without)


def test_hooks_of_time_removed_after_training(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(SET, log_dir=tmp_path / "run")
    run = trainer(tmp_path, max_steps=2)
    callback.attach(run)
    run.train()
    assert not run.model._forward_pre_hooks
    assert not run.model._forward_hooks
    assert callback._session.stopwatch.times is None
