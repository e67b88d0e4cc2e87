"""Tests that the logs of the trainers themselves are read like the event files of the same trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from typer.testing import CliRunner

from tbx_callbacks import TbxTrainerCallback
from tbx_callbacks.cli import app
from tbx_callbacks.rules import diagnose
from tbx_callbacks.runs import Run, find_runs, read_run
from tests.helpers.models import bert


def rows(number: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (number, 8), generator=generator)
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row[0] % 2} for row in ids]


@pytest.fixture(scope="module")
def trainer_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with this package's two writers and without the Trainer's own TensorBoard log."""
    folder = tmp_path_factory.mktemp("hf")
    arguments = TrainingArguments(
        str(folder / "out"),
        max_steps=40,
        per_device_train_batch_size=4,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=10,
        save_steps=20,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    config = {"metrics": ["loss", "learning_rate", {"weight_histogram": {"by": "layer"}}, "hparams"], "every": "log"}
    callback = TbxTrainerCallback({**config, "writers": ["tensorboard", "json_lines"]}, log_dir=folder / "logs")
    trainer = Trainer(bert(0), arguments, train_dataset=rows(32), eval_dataset=rows(8), callbacks=[callback])
    trainer.train()
    return folder


def shared_scalars(one: Run, other: Run) -> dict[str, float]:
    """The largest relative difference of each tag that both have at the same steps."""
    differences = {}
    for tag in set(one.scalars) & set(other.scalars):
        a, b = one.scalars[tag], other.scalars[tag]
        assert a.steps.tolist() == b.steps.tolist(), tag
        differences[tag] = float(np.max(np.abs(a.values - b.values) / np.maximum(np.abs(b.values), 1e-30)))
    return differences


def test_trainer_state_values_are_event_values(trainer_run: Path) -> None:
    events = read_run(trainer_run / "logs")
    ((name, path),) = find_runs(trainer_run / "out").items()
    state = read_run(path)
    assert (name, state.source) == (".", "checkpoint-40/trainer_state.json")
    differences = shared_scalars(state, events)
    assert {"train/loss", "eval/loss", "train/learning_rate", "train/grad_norm"} <= set(differences)
    assert max(differences[tag] for tag in ("train/loss", "eval/loss", "train/learning_rate")) < 1e-6
    assert set(find_runs(trainer_run)) == {"logs", "out"}
    assert diagnose(state).verdict.kind == diagnose(events).verdict.kind


def test_json_lines_of_training_are_event_values(trainer_run: Path) -> None:
    events = read_run(trainer_run / "logs")
    (trainer_run / "lines").mkdir()
    (trainer_run / "logs" / "metrics.jsonl").rename(trainer_run / "lines" / "metrics.jsonl")
    lines = read_run(trainer_run / "lines")
    assert set(lines.scalars) == set(events.scalars)
    assert max(shared_scalars(lines, events).values()) < 1e-6
    assert lines.hparams == events.hparams
    assert lines.texts.keys() == events.texts.keys()
    for tag, histograms in events.histograms.items():
        for expected, buckets in zip(histograms.buckets, lines.histograms[tag].buckets, strict=True):
            np.testing.assert_allclose(buckets, expected)
    assert [finding.id for finding in diagnose(lines).findings] == [finding.id for finding in diagnose(events).findings]


class Module(pl.LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        self.log("val_loss", self.layer(batch).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


@pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests
def test_lightning_csv_values_are_event_values(tmp_path: Path) -> None:
    loader = DataLoader(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), batch_size=4, num_workers=0)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=[CSVLogger(tmp_path, name="table"), TensorBoardLogger(tmp_path, name="board")],
        log_every_n_steps=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    torch.manual_seed(0)
    trainer.fit(Module(), loader, loader)
    found = find_runs(tmp_path)
    assert set(found) == {"board/version_0", "table/version_0"}
    events, table = (read_run(found[name]) for name in sorted(found))
    assert set(table.scalars) == {"epoch", "train_loss_step", "train_loss_epoch", "val_loss"}
    assert max(shared_scalars(table, events).values()) < 1e-6
    assert table.hparams == {"lr": 0.1}


def test_commands_read_trainer_state(trainer_run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", str(trainer_run / "out")])
    assert result.exit_code in (0, 1), result.output
    assert "read from checkpoint-40/trainer_state.json, which holds no wall times" in result.output
    pytest.importorskip("plotly", reason="the report draws with plotly")
    page = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(trainer_run / "out"), "-o", str(page)])
    assert result.exit_code == 0, result.output
    assert "unknown: the log holds no times" in page.read_text(encoding="utf-8")
