"""Tests that numbers stand at the trainer's own points, also where these cannot be predicted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from transformers import TrainerCallback

from tbx_callbacks import TbxLightningCallback, TbxTrainerCallback
from tests.helpers.data import rows
from tests.helpers.models import trainer
from tests.helpers.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore")  # trainers warn about settings that suit tests

SET = {
    "every": "log",
    "metrics": ["loss", "learning_rate", {"weight_norm": {"by": "total"}}, {"grad_norm": {"by": "total"}}],
}


class Recorder(TrainerCallback):
    """Asks for logging at some steps, ends the training at another, and records norms of weights and rates."""

    def __init__(self, logs_at: tuple[int, ...] = (), stops_at: int = 0) -> None:
        self.logs_at, self.stops_at = logs_at, stops_at
        self.weights: dict[int, float] = {}
        self.rates: dict[int, float] = {}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.rates[state.global_step + 1] = optimizer.param_groups[-1]["lr"]

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> Any:
        self.weights[state.global_step] = float(
            torch.cat([p.detach().double().reshape(-1) for p in model.parameters()]).norm()
        )
        control.should_log |= state.global_step in self.logs_at
        control.should_training_stop |= state.global_step == self.stops_at
        return control


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(rows(20))


def check(callback: TbxTrainerCallback, recorder: Recorder, points: list[int], gradients: list[int]) -> None:
    run = Run(callback.log_dir)
    assert run.steps("train/loss") == points
    assert run.at("weight_norm/total") == {step: pytest.approx(recorder.weights[step], rel=1e-5) for step in points}
    assert run.at("lr/AdamW/pg2") == {step: pytest.approx(recorder.rates[step]) for step in points}
    assert (run.steps("grad_norm/total") if gradients else []) == gradients


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
def test_huggingface_requested_logging_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, attached: bool, is_first: bool
) -> None:
    callback, recorder = TbxTrainerCallback(SET), Recorder((3, 5))
    callbacks = [recorder, callback] if is_first else [callback, recorder]
    made = trainer(tmp_path, callbacks=callbacks, max_steps=8, logging_steps=4)
    if attached:
        callback.attach(made)
    made.train()
    check(callback, recorder, [3, 4, 5, 8], [4, 8])
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("tbx_callbacks")]
    assert [message for message in messages if message.startswith("grad_norm: left out at step 3")] == messages


def test_huggingface_epoch_without_length_followed(tmp_path: Path) -> None:
    callback, recorder = TbxTrainerCallback(SET), Recorder()
    made = trainer(tmp_path, callbacks=[callback, recorder], logging_strategy="epoch", max_steps=12, logging_steps=1)
    made.train_dataset = Stream()
    made.train()
    logged = [log["step"] for log in made.state.log_history if "loss" in log]
    check(callback, recorder, logged, [])
    assert logged


def test_huggingface_early_stop_in_epoch_followed(tmp_path: Path) -> None:
    callback, recorder = TbxTrainerCallback(SET), Recorder(stops_at=6)
    made = trainer(tmp_path, callbacks=[callback, recorder], logging_strategy="epoch", max_steps=20, logging_steps=1)
    made.train()
    logged = [log["step"] for log in made.state.log_history if "loss" in log]
    run = Run(callback.log_dir)
    assert run.steps("weight_norm/total") == run.steps("train/loss") == logged
    assert logged[-1] == 6


def quiet_trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(default_root_dir=folder, accelerator="cpu", **quiet, **options)  # type: ignore[arg-type]


class Manual(pl.LightningModule):
    """Steps two optimizers by hand: one in each batch, the other in every second one, and clips in its own way."""

    def __init__(self, clip: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization, self.clip = False, clip
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)
        self.expected: dict[str, dict[int, float]] = {"SGD": {}, "SGD-1": {}}

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.a, self.b)]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.b(self.a(batch[0])).square().mean()
        for n, (name, part, optimizer) in enumerate(
            zip(self.expected, (self.a, self.b), self.optimizers(), strict=True)
        ):
            if n and batch_idx % 2 == 0:
                continue
            self.zero_grad()
            loss = self.b(self.a(batch[0])).square().mean()
            self.manual_backward(loss)
            gradients = [p.grad.double().reshape(-1) for p in part.parameters() if p.grad is not None]
            self.expected[name][batch_idx + 1] = float(torch.cat(gradients).norm())
            if self.clip == "lightning":
                self.clip_gradients(optimizer, gradient_clip_val=0.01, gradient_clip_algorithm="norm")
            elif self.clip == "torch":
                nn.utils.clip_grad_norm_(part.parameters(), 0.01)
            optimizer.step()
        self.log("mine", loss)
        return loss


@pytest.mark.parametrize("clip", ["none", "lightning", "torch"])
def test_lightning_manual_optimization_norms_before_clipping(tmp_path: Path, clip: str) -> None:
    config = {"every": 1, "strict": True, "metrics": ["loss", {"grad_norm": {"by": "total"}}, "learning_rate"]}
    callback, module = TbxLightningCallback(config), Manual(clip)
    data = DataLoader(TensorDataset(torch.randn(24, 4)), batch_size=4)
    quiet_trainer(
        tmp_path,
        callbacks=[callback],
        max_epochs=1,
        log_every_n_steps=1,
        logger=False,
    ).fit(module, data)
    run = Run(callback.log_dir)
    for name, expected in module.expected.items():
        assert run.at(f"grad_norm/{name}/total") == {s: pytest.approx(n, rel=1e-5) for s, n in expected.items()}
        assert run.steps(f"lr/{name}/pg1") == list(expected)
    assert run.steps("mine") == run.steps("train/loss") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_lightning_points_are_those_of_its_monitors(tmp_path: Path, every: int) -> None:
    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 2)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = self.net(batch[0]).square().mean()
            self.log("mine", loss)
            return loss

    callback = TbxLightningCallback(SET)
    fitted = quiet_trainer(
        tmp_path,
        callbacks=[callback, LearningRateMonitor("step")],
        max_epochs=2,
        log_every_n_steps=every,
        accumulate_grad_batches=2,
        logger=pl.loggers.CSVLogger(tmp_path),
    )
    fitted.fit(Net(), DataLoader(TensorDataset(torch.randn(28, 4)), batch_size=4))
    with (Path(fitted.loggers[0].log_dir) / "metrics.csv").open() as file:
        monitored = sorted({int(row["step"]) + 1 for row in csv.DictReader(file) if row["lr-SGD"]})
    run = Run(callback.log_dir)
    assert run.steps("weight_norm/total") == run.steps("grad_norm/total") == run.steps("mine") == monitored


class Logging(pl.LightningModule):
    """Logs own scalars in training and tests, and its rate with `self.log`."""

    def __init__(self, callback: TbxLightningCallback) -> None:
        super().__init__()
        self.net, self.callback = nn.Linear(4, 2), callback

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.callback.log("own/x", 1.0)
        self.log("mine", self.optimizers().param_groups[0]["lr"])
        return self.net(batch[0]).square().mean()

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.callback.log("own/x", 100.0)
        self.log("test_loss", self.net(batch[0]).square().mean())

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.callback.log("own/x", 50.0)
        self.log("val_loss", self.net(batch[0]).square().mean())


@pytest.mark.parametrize("monitor_is_first", [False, True])
def test_lightning_monitor_and_log_at_same_steps(tmp_path: Path, monitor_is_first: bool) -> None:
    callback = TbxLightningCallback({"every": 1, "metrics": ["loss", "learning_rate"]})
    monitor = LearningRateMonitor("step")
    fitted = quiet_trainer(
        tmp_path,
        callbacks=[monitor, callback] if monitor_is_first else [callback, monitor],
        max_epochs=2,
        log_every_n_steps=1,
        logger=False,
    )
    data = DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=4)
    module = Logging(callback)
    fitted.fit(module, data, data)
    for _ in range(2):
        fitted.test(module, data)
    fitted.validate(module, data)
    callback.close()
    run = Run(callback.log_dir)
    rates = {step: pytest.approx(0.1 * 0.5 ** (step - 1)) for step in (1, 2, 3, 4)}
    assert run.at("lr-SGD") == run.at("lr/SGD/pg1") == run.at("mine") == rates
    assert run.steps("val_loss") == [2, 4]  # the last value did not change
    assert run.scalars["own/x"] == [(step, 1.0) for step in (1, 2, 3, 4)]
    assert {value for _, value in run.scalars["test/own/x"]} == {100.0}
    assert run.steps("eval/own/x") == [2, 4]
