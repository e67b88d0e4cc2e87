"""Tests how each trainer's run ends when the process exits, or is interrupted, in the middle of a training."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn
from transformers import Trainer

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tbx_callbacks.runs import read_run
from tests.helpers.models import bert, trainer
from tests.helpers.web_server import receiving


class Leaving(Trainer):
    """Raises in its second step."""

    error: BaseException = SystemExit(0)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1:
            raise self.error
        return super().compute_loss(model, inputs, *args, **kwargs)


def huggingface(folder: Path, config: dict[str, Any], error: BaseException) -> None:
    callback = TbxTrainerCallback(config, log_dir=folder / "run")
    run: Any = trainer(folder, model=bert(), cls=Leaving, callbacks=[callback], max_steps=4)
    callback.attach(run)
    run.error = error
    run.train()


class Module(lightning.LightningModule):
    """Raises in its second step."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.layer, self.error = nn.Linear(2, 1), error

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        if self.global_step == 1:
            raise self.error
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def lightning_trainer(folder: Path, config: dict[str, Any], error: BaseException) -> None:
    callback = TbxLightningCallback(config, log_dir=folder / "run")
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    fit = lightning.Trainer(
        accelerator="cpu", max_steps=4, callbacks=[callback], enable_model_summary=False, **quiet
    ).fit
    fit(Module(error), torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2))


def plain_loop(folder: Path, config: dict[str, Any], error: BaseException) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with TbxLoop(model, optimizer, config, log_dir=folder / "run", log_every=1) as loop:
        loss = model(torch.ones(8, 2)).square().mean()
        loss.backward()
        optimizer.step()
        loop.end_step(loss=loss)
        raise error


@pytest.mark.filterwarnings("ignore")  # Lightning and torch warn of each other
@pytest.mark.parametrize("train", [huggingface, lightning_trainer, plain_loop])
@pytest.mark.parametrize(
    ("error", "event", "status"),
    [(SystemExit(0), "end", "succeeded"), (SystemExit(2), "crash", "failed"), (KeyboardInterrupt(), "end", "failed")],
    ids=["exit 0", "exit 2", "interrupt"],
)
def test_exit_of_trainer_tells_how(tmp_path: Path, train: Any, error: BaseException, event: str, status: str) -> None:
    with receiving() as receiver:
        config = {"every": 1, "metrics": ["loss", "hparams"], "rules": {}, "notify": [receiver.url]}
        is_interrupt = isinstance(error, KeyboardInterrupt)  # after which Lightning exits; older versions return
        with suppress(SystemExit, KeyboardInterrupt) if is_interrupt else pytest.raises(SystemExit):
            train(tmp_path, config, error)
    assert [body["event"] for body in receiver.bodies] == [event]
    assert ("interrupted" in receiver.bodies[0]["text"]) == isinstance(error, KeyboardInterrupt)
    assert read_run(tmp_path / "run").status == status
