"""Tests that evaluation is not training time, on a clock that only the test moves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification, Trainer, TrainerCallback

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run
from tests.helpers.variations import variations

WORK, EVALUATE, SAVE = 1.0, 1000.0, 500.0
SET = {"every": 1, "metrics": ["throughput"]}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def set_clock(callback: Any) -> Clock:
    clock, watch = Clock(), callback._session.stopwatch
    watch.clock = clock
    if watch.is_running:
        watch._resumed_at = watch.marked_at = 0.0
    return clock


def step_seconds(folder: Any) -> list[float]:
    return [value for _, value in Run(folder).scalars["perf/step_s"]]


class Slow(BertForSequenceClassification):
    """Takes its time on the test's clock."""

    clock: Clock

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        self.clock.now += WORK if self.training else EVALUATE
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def slow(clock: Clock) -> Slow:
    torch.manual_seed(0)
    model = Slow(bert().config)
    model.clock = clock
    return model


class Evaluates(TrainerCallback):
    """Evaluates at one event, once."""

    trainer: Trainer

    def __init__(self, event: str, way: str) -> None:
        self.way, self.done = way, False
        setattr(self, event, self.evaluate)

    def evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.done and state.global_step >= 3:
            self.done = True
            dataset = self.trainer.eval_dataset
            if self.way == "evaluate":
                self.trainer.evaluate()
            elif self.way == "predict":
                self.trainer.predict(dataset)
            else:
                loader = self.trainer.get_eval_dataloader()
                self.trainer.evaluation_loop(loader, "by hand")
            self.trainer.model.train()


EVENTS = (
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
    "on_log",
    "on_save",
    "on_epoch_end",
    "on_epoch_begin",
)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("event", variations(EVENTS, *EVENTS[:2], "on_epoch_end"))
@pytest.mark.parametrize("first", variations([True, False], False))
def test_huggingface_evaluation_at_event_excluded(tmp_path: Path, event: str, first: bool) -> None:
    for way, attached in (("evaluate", True), ("evaluate", False), ("predict", False), ("loop", False)):
        callback, other = TbxTrainerCallback(SET), Evaluates(event, way)
        clock = set_clock(callback)
        run = trainer(
            tmp_path / f"{way}{attached}",
            model=slow(clock),
            callbacks=[other, callback] if first else [callback, other],
            gradient_accumulation_steps=2,
            max_steps=6,
            logging_steps=1,
            save_strategy="steps",
            save_steps=4,
        )
        other.trainer = run
        if attached:
            callback.attach(run)
        run.train()
        assert other.done
        measured = step_seconds(callback.log_dir)
        assert len(measured) == 6
        assert set(measured) <= {WORK, 2 * WORK}, (way, attached)  # a part of a step may be left out with an evaluation
        assert measured.count(WORK) <= 1
        if attached:
            assert set(measured) == {2 * WORK}


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize(
    "args",
    [
        {"eval_strategy": "steps", "eval_steps": 2},
        {"eval_strategy": "epoch"},
        {"eval_strategy": "steps", "eval_steps": 100, "eval_on_start": True},
        {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 4},
        {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "best", "metric_for_best_model": "loss"},
    ],
    ids=["steps", "epoch", "start", "saving", "best"],
)
def test_huggingface_evaluation_by_strategy_excluded(tmp_path: Path, args: dict[str, Any], attached: bool) -> None:
    callback = TbxTrainerCallback(SET)
    clock = set_clock(callback)

    class Saves(Trainer):
        def _save_checkpoint(self, *given: Any, **kwargs: Any) -> None:
            clock.now += SAVE
            super()._save_checkpoint(*given, **kwargs)

    run = trainer(tmp_path, cls=Saves, model=slow(clock), callbacks=[callback], max_steps=12, **args)
    if attached:
        callback.attach(run)
    run.train()
    assert step_seconds(callback.log_dir) == [WORK] * 12


class Module(pl.LightningModule):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.net, self.clock = slow(clock), clock

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.net(**batch).loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.net(**batch)

    def on_save_checkpoint(self, checkpoint: Any) -> None:
        self.clock.now += SAVE

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class ValidatesLate(pl.Callback):
    """Works before and after the validation, as callbacks and data loaders do."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_validation_start(self, *_: Any) -> None:
        self.clock.now += EVALUATE

    def on_validation_end(self, *_: Any) -> None:
        self.clock.now += EVALUATE


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("interval", [3, None])
def test_lightning_validation_and_saving_excluded(
    tmp_path: Path, first: bool, accumulate: int, interval: int | None
) -> None:
    callback = TbxLightningCallback(SET, log_dir=tmp_path / "run")
    clock = set_clock(callback)
    other = ValidatesLate(clock)

    def evaluated(batch: Any) -> Any:
        clock.now += EVALUATE  # the first one is fetched before any event of the validation
        return collate(batch)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pl.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_steps=8,
            val_check_interval=interval,
            check_val_every_n_epoch=None if interval else 1,
            accumulate_grad_batches=accumulate,
            callbacks=[
                *([other, callback] if first else [callback, other]),
                pl.callbacks.ModelCheckpoint(tmp_path / "kept", every_n_train_steps=2),
            ],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = DataLoader(rows(16), batch_size=4, collate_fn=collate)
        run.fit(Module(clock), data, DataLoader(rows(4), batch_size=4, collate_fn=evaluated))
    assert step_seconds(tmp_path / "run") == [accumulate * WORK] * 8


def train(loop: TbxLoop, model: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock, batches: Any) -> None:
    model.train()
    for batch in batches:
        clock.now += WORK
        model(batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        loop.end_step(samples=3)


@pytest.mark.parametrize("way", ["evaluate", "context", "track", "track without gradients", "track in training"])
def test_loop_evaluation_excluded(tmp_path: Path, way: str) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [torch.randn(3, 2) for _ in range(3)]
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=1) as loop:
        clock = set_clock(loop)
        for _ in range(3):
            train(loop, model, optimizer, clock, loop.track(batches) if "training" in way else batches)
            model.eval()
            if way == "evaluate":
                clock.now += EVALUATE
                loop.evaluate(loss=1.0)
            elif way == "context":
                with loop.evaluation():
                    clock.now += EVALUATE
            else:
                with torch.set_grad_enabled(way == "track"):
                    for _ in loop.track(batches):
                        clock.now += EVALUATE
    assert step_seconds(tmp_path) == [WORK] * 9


def test_loop_evaluation_before_end_of_step_excluded(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=1) as loop:
        clock = set_clock(loop)
        clock.now += EVALUATE
        loop.evaluate(loss=1.0)  # before the training
        for _ in range(4):
            clock.now += WORK
            model(torch.randn(3, 2)).sum().backward()
            optimizer.step()
            clock.now += EVALUATE
            loop.evaluate(loss=1.0)
            loop.end_step()
    assert step_seconds(tmp_path) == [WORK] * 4


def test_loop_that_trains_in_evaluation_mode_counted(tmp_path: Path) -> None:
    model = nn.Linear(2, 1).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=1) as loop:
        clock = set_clock(loop)
        for batch in loop.track([torch.randn(3, 2) for _ in range(5)]):
            clock.now += WORK
            model(batch).sum().backward()
            optimizer.step()
            loop.end_step()
    assert step_seconds(tmp_path) == [WORK] * 5
