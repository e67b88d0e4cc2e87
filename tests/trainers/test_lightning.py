"""Tests the callback under the real Lightning Trainer, with runs read from disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins import MixedPrecision
from packaging.version import Version
from torch import Tensor, nn

from tbx_callbacks import TbxLightningCallback
from tests.helpers.data import EVERY_KIND as SET
from tests.helpers.data import FULL, collate, rows
from tests.helpers.models import bert
from tests.helpers.processes import python
from tests.helpers.runs import Run, files

# Lightning warns about settings that suit tests (few workers, no logger), and uses deprecated functions of torch.
pytestmark = pytest.mark.filterwarnings("ignore")


def norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors]).norm())


class Classifier(pl.LightningModule):
    """Records gradients and weights, for a naive second implementation of the metrics."""

    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = bert()
        self.seen: dict[int, dict[str, Any]] = {}
        self.losses: list[float] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.net(**batch).loss
        self.losses.append(loss.item())
        self.log("my_loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_acc", (self.net(**batch).logits.argmax(-1) == batch["labels"]).float().mean())

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("test_acc", 0.5)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.before = norm([p.grad for p in self.parameters()])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step and self.trainer.global_step not in self.seen:
            after = norm([p.grad for p in self.parameters()])
            weights = norm(list(self.net.classifier.parameters()))
            self.seen[self.trainer.global_step] = {"before": self.before, "after": after, "weights": weights}


def loader(number: int = 32, seed: int = 0) -> Any:
    return torch.utils.data.DataLoader(rows(number, seed=seed), batch_size=4, collate_fn=collate)


def trainer(folder: Path, *callbacks: Any, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "default_root_dir": folder,
        "max_steps": 8,
        "log_every_n_steps": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**defaults, **options})


@pytest.mark.parametrize(("accumulate", "ends"), [(1, [8, 16]), (3, [3, 6])])
def test_lightning_epochs_cadence_follows_data(tmp_path: Path, accumulate: int, ends: list[int]) -> None:
    callback = TbxLightningCallback({"every": {"epochs": 1}, "metrics": [{"weight_norm": {"by": "total"}}]})
    options = {"max_steps": -1, "max_epochs": 2, "accumulate_grad_batches": accumulate}
    trainer(tmp_path, callback, **options).fit(Classifier(), loader())
    assert Run(callback.log_dir).steps("weight_norm/total") == ends


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_lightning_metrics_match_naive_computation(tmp_path: Path, accumulate: int, clip: float | None) -> None:
    module, callback = Classifier(), TbxLightningCallback(SET)
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip, "max_epochs": -1}
    trainer(tmp_path, callback, val_check_interval=4, **options).fit(module, loader(), loader(8, seed=5))
    read = Run(callback.log_dir)
    assert read.steps("train/loss") == read.steps("grad_norm/total") == read.steps("lr/AdamW/pg1") == [2, 4, 6, 8]
    rates = [0.01 * (1 - (step - 1) / 8) for step in (2, 4, 6, 8)]
    assert list(read.at("lr/AdamW/pg1").values()) == pytest.approx(rates, rel=1e-5)
    for step in (2, 4, 6, 8):
        seen = module.seen[step]
        assert read.at("grad_norm/total")[step] == pytest.approx(seen["before"], rel=1e-5)
        assert read.at("grad_norm_clipped/total")[step] == pytest.approx(seen["after"], rel=1e-5)
        assert read.at("weight_norm/classifier")[step] == pytest.approx(seen["weights"], rel=1e-5)
        losses = module.losses[(step - 2) * accumulate : step * accumulate]
        assert read.at("train/loss")[step] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        ratio = read.at("perf/samples_per_s")[step] / read.at("perf/steps_per_s")[step]
        assert ratio == pytest.approx(4 * accumulate)
        if clip is not None:
            assert read.at("clip/factor")[step] == pytest.approx(clip / (seen["before"] + 1e-6), rel=1e-5)
    assert ("clip/factor" in read.scalars) == (clip is not None)
    assert list(read.histograms["weights/bert.pooler"]) == [1, 4, 8]
    assert read.steps("my_loss") == [2, 4, 6, 8]
    assert read.scalars["val_acc"]
    assert read.scalars["best/val_acc"]
    assert 0 not in read.at("val_acc")  # the sanity check is not an evaluation
    assert len(files(callback.log_dir)) == 1


@pytest.mark.parametrize("logger", [True, False])
def test_lightning_training_with_callback_unchanged(tmp_path: Path, logger: bool) -> None:
    results = []
    for callbacks in ([TbxLightningCallback(FULL)], []):
        pl.seed_everything(1)
        module = Classifier()
        trainer(tmp_path, *callbacks, gradient_clip_val=0.05, logger=logger, log_every_n_steps=1).fit(module, loader())
        results.append((module.state_dict(), torch.get_rng_state()))
    (watched, watched_rng), (plain, plain_rng) = results
    assert all(torch.equal(watched[name], plain[name]) for name in plain)
    assert torch.equal(watched_rng, plain_rng)


def test_lightning_checkpoint_folder_unchanged(tmp_path: Path) -> None:
    found = {}
    for name, callbacks in (("with", [TbxLightningCallback("minimal")]), ("without", [])):
        trainer(tmp_path / name, *callbacks, enable_checkpointing=True).fit(Classifier(), loader())
        found[name] = {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*.ckpt")}
    assert found["with"] == found["without"] != set()


def test_lightning_clipping_by_value_no_factor(tmp_path: Path) -> None:
    module, callback = Classifier(), TbxLightningCallback(SET)
    trainer(tmp_path, callback, gradient_clip_val=1e-4, gradient_clip_algorithm="value").fit(module, loader())
    read = Run(callback.log_dir)
    assert read.at("grad_norm/total")[8] == pytest.approx(module.seen[8]["before"], rel=1e-5)
    assert read.at("grad_norm_clipped/total")[8] == pytest.approx(module.seen[8]["after"], rel=1e-5)
    assert "clip/factor" not in read.scalars


class Adversaries(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(4, 4), nn.Linear(4, 1)
        self.norms: dict[str, list[float]] = {"SGD": [], "SGD-1": []}

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for name, optimizer, part in zip(self.norms, self.optimizers(), (self.generator, self.critic), strict=True):
            optimizer.zero_grad()
            self.manual_backward(self.critic(self.generator(batch[0])).square().mean())
            self.norms[name].append(norm([p.grad for p in part.parameters()]))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.generator, self.critic)]


def test_lightning_manual_optimization_two_optimizers(tmp_path: Path) -> None:
    module = Adversaries()
    callback = TbxLightningCallback({"every": 1, "metrics": ["learning_rate", "grad_norm"]})
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(12, 4)), batch_size=4)
    trainer(tmp_path, callback, max_steps=-1, max_epochs=1).fit(module, data)
    read = Run(callback.log_dir)
    assert read.family("lr") == {"SGD/pg1", "SGD-1/pg1"}
    for name, layer in (("SGD", "generator"), ("SGD-1", "critic")):
        series = read.scalars[f"grad_norm/{name}/{layer}"]
        assert series == [(step, pytest.approx(v, rel=1e-5)) for step, v in enumerate(module.norms[name], 1)]
    assert read.family("grad_norm") == {"SGD/generator", "SGD-1/critic"}


def test_lightning_manual_optimization_epochs_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = TbxLightningCallback({"every": 1, "metrics": ["memory", {"weight_norm": {"every": {"epochs": 1}}}]})
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(12, 4)), batch_size=4)
    trainer(tmp_path, callback, max_steps=-1, max_epochs=1).fit(Adversaries(), data)
    read = Run(callback.log_dir)
    assert not read.family("weight_norm")
    assert read.steps("memory/rss_gib") == [1, 2, 3]
    assert "weight_norm: left out, because the number of steps per epoch is unknown" in caplog.text


def test_lightning_resume_continues_folder(tmp_path: Path) -> None:
    first = TbxLightningCallback(SET)
    run = trainer(tmp_path, first, max_steps=6)
    run.fit(Classifier(), loader())
    run.save_checkpoint(tmp_path / "at6.ckpt")
    first.close()
    second = TbxLightningCallback(SET)
    again = trainer(tmp_path, second, max_steps=10, max_epochs=-1)
    again.fit(Classifier(), loader(), ckpt_path=tmp_path / "at6.ckpt")
    assert second.log_dir == first.log_dir
    assert Run(second.log_dir).steps("train/loss") == [2, 4, 6, 8, 10]


def test_lightning_exception_marks_run_failed(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    class Fails(Classifier):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            if batch_idx == 5:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    callback = TbxLightningCallback(SET)
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, callback).fit(Fails(), loader())
    callback.close()
    read = Run(callback.log_dir)
    assert read.steps("train/loss") == [2, 4]
    ended = metadata.parse_session_end_info_plugin_data(read.plugin("hparams")["_hparams_/session_end_info"])
    assert ended.status == 2


def test_lightning_validate_logged_predict_not(tmp_path: Path) -> None:
    callback = TbxLightningCallback("minimal", log_dir=tmp_path / "logs")
    run, module = trainer(tmp_path, callback, max_steps=4), Classifier()
    run.fit(module, loader())
    (before,) = run.validate(module, loader(8), verbose=False)
    assert len(run.predict(Predicts(module), loader(8))) == 2
    callback.close()
    read = Run(tmp_path / "logs")
    assert read.scalars["val_acc"][-1] == (4, pytest.approx(before["val_acc"]))
    assert read.steps("train/loss") == [2, 4]


class Predicts(pl.LightningModule):
    def __init__(self, module: Classifier) -> None:
        super().__init__()
        self.net = module.net

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.net(**batch).logits


def test_lightning_test_metrics_and_fast_dev_run(tmp_path: Path) -> None:
    callback = TbxLightningCallback("minimal", log_dir=tmp_path / "logs")
    trainer(tmp_path, callback).test(Classifier(), loader(8), verbose=False)
    callback.close()
    assert Run(tmp_path / "logs").scalars["test_acc"] == [(0, 0.5)]
    quick = TbxLightningCallback("minimal", log_dir=tmp_path / "quick")
    trainer(tmp_path, quick, fast_dev_run=True).fit(Classifier(), loader())
    assert not (tmp_path / "quick").exists()


def test_lightning_second_fit_continues_or_starts_anew(tmp_path: Path) -> None:
    module, callback = Classifier(), TbxLightningCallback(SET)
    run = trainer(tmp_path, callback, max_steps=4)
    run.fit(module, loader())
    first = callback.log_dir
    run.fit_loop.epoch_loop.max_steps = 8  # the usual way to continue in Lightning
    run.fit_loop.max_epochs = 2
    run.fit(module, loader())
    assert callback.log_dir == first
    assert Run(first).steps("train/loss") == [2, 4, 6, 8]
    trainer(tmp_path, callback, max_steps=4).fit(Classifier(), loader())  # another Trainer starts another run
    assert callback.log_dir != first
    assert Run(callback.log_dir).steps("train/loss") == [2, 4]
    assert Run(first).steps("train/loss") == [2, 4, 6, 8]


@pytest.mark.slow
def test_lightning_ctrl_c_keeps_finished_steps(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from tests.trainers.test_lightning import SET, Classifier, TbxLightningCallback, loader, trainer

class Interrupted(Classifier):
    def training_step(self, batch, batch_idx):
        if batch_idx == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return super().training_step(batch, batch_idx)

signal.signal(signal.SIGINT, signal.default_int_handler)
trainer(".", TbxLightningCallback(SET, log_dir="run")).fit(Interrupted(), loader())
"""
    done = python("-c", code, cwd=tmp_path)
    ends_the_process = Version(pl.__version__) >= Version("2.4")
    assert done.returncode == int(ends_the_process), done.stderr  # Lightning exits by itself
    assert "KeyboardInterrupt" in done.stderr
    assert Run(tmp_path / "run").steps("train/loss") == [2, 4]
    assert len(files(tmp_path / "run")) == 1


@pytest.mark.parametrize(("fused", "clip"), [(False, None), (False, 0.05), (True, None)])
def test_lightning_loss_scale_gradients_unscaled(tmp_path: Path, fused: bool, clip: float | None) -> None:
    """Gradients are unscaled, by Lightning or by the callback. Lightning refuses to clip with a fused optimizer."""

    class Scaled(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2, fused=fused)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            super().on_before_optimizer_step(optimizer)
            self.before /= self.trainer.precision_plugin.scaler.get_scale() if fused else 1.0

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.trainer.global_step not in self.seen:
                self.seen[self.trainer.global_step] = {"before": self.before}

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    module, callback = Scaled(), TbxLightningCallback(SET)
    trainer(tmp_path, callback, plugins=[plugin], gradient_clip_val=clip).fit(module, loader())
    read = Run(callback.log_dir)
    assert read.steps("grad_norm/total") == [2, 4, 6, 8]
    for step, value in read.scalars["grad_norm/total"]:
        assert value == pytest.approx(module.seen[step]["before"], rel=1e-3)
        assert 0.001 < value < 50  # not multiplied by the scale 1024


def test_lightning_command_line_configures_callback(tmp_path: Path) -> None:
    """LightningCLI builds the callback from its class path in YAML."""
    config = {
        "seed_everything": 1,
        "trainer": {
            "max_steps": 4,
            "log_every_n_steps": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "default_root_dir": str(tmp_path),
            "callbacks": [
                {
                    "class_path": "tbx_callbacks.TbxLightningCallback",
                    "init_args": {"config": "minimal", "log_dir": str(tmp_path / "run"), "max_mib": 8.0},
                },
            ],
        },
        "model": {"lr": 0.02},
    }
    (tmp_path / "cli.yaml").write_text(yaml.safe_dump(config))
    LightningCLI(Classifier, Rows, args=["fit", "--config", str(tmp_path / "cli.yaml")])
    assert Run(tmp_path / "run").steps("train/loss") == [2, 4]
    assert Run(tmp_path / "run").at("lr/AdamW/pg1")[2] == pytest.approx(0.02 * 7 / 8)


class Rows(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader()


_OF_THE_OTHER_PACKAGE = """
import sys
import pytorch_lightning as other
import torch
from tests.helpers.models import bert
from tests.helpers.data import collate, rows
from tbx_callbacks import TbxLightningCallback

class Module(other.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = bert()
    def training_step(self, batch, batch_idx):
        self.log("mine", 1.0)
        return self.net(**batch).loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

callback = TbxLightningCallback("minimal", log_dir=sys.argv[1])
options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
data = torch.utils.data.DataLoader(rows(32), batch_size=4, collate_fn=collate)
other.Trainer(callbacks=[callback], max_steps=4, log_every_n_steps=2, **options).fit(Module(), data)
"""


@pytest.mark.slow
def test_pytorch_lightning_package_training_writes_run(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    command = [sys.executable, "-c", _OF_THE_OTHER_PACKAGE, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = Run(tmp_path / "run")
    assert read.steps("train/loss") == read.steps("mine") == [2, 4]


class OwnScalars(pl.LightningModule):
    """Logs scalars of its own through a callback, in the training and in evaluations."""

    def __init__(self, callback: TbxLightningCallback) -> None:
        super().__init__()
        self.net, self.callback = nn.Linear(4, 1), callback

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.callback.log("aux/number", float(batch_idx + 1))
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.callback.log("aux/number", 100.0 * (dataloader_idx + 1) + batch_idx)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.callback.log_dict({"aux/number": 7.0})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def numbers(samples: int) -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(samples, 4)), batch_size=4)


@pytest.mark.parametrize("sets", [1, 2])
def test_lightning_scalars_of_evaluation_stay_apart(tmp_path: Path, sets: int) -> None:
    callback = TbxLightningCallback({"every": 4, "metrics": ["loss"]}, log_dir=tmp_path / "run")
    module = OwnScalars(callback)
    fitted = trainer(tmp_path, callback, max_epochs=1, max_steps=-1, val_check_interval=3, log_every_n_steps=4)
    fitted.fit(module, numbers(32), [numbers(8)] * sets if sets > 1 else numbers(8))
    callback.log("aux/after", 1.0)
    fitted.test(module, numbers(8), verbose=False)
    callback.close()
    read = Run(tmp_path / "run")
    assert read.scalars["aux/number"] == [(4, 2.5), (8, 6.5)]
    names = ["eval/aux/number"] if sets == 1 else [f"eval/dataloader_idx_{index}/aux/number" for index in range(2)]
    for index, name in enumerate(names):
        assert read.scalars[name] == [(3, 100.0 * (index + 1) + 0.5), (6, 100.0 * (index + 1) + 0.5)]
    assert read.family("eval") == {name.removeprefix("eval/") for name in names}
    assert (read.at("aux/after"), read.at("test/aux/number")) == ({8: 1.0}, {8: 7.0})
    with pytest.raises(ValueError, match="a tag must be made of"):
        callback.log("my tag", 1.0)


def test_lightning_hparams_recorded_from_trainer(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    class Odd(Classifier):
        def __init__(self, lr: float = 1e-2, path: Path = Path("a/b"), loss: Any = None, nested: Any = None) -> None:
            super().__init__(lr)

    module = Odd(nested={"size": 3}, loss=nn.CrossEntropyLoss())
    callback = TbxLightningCallback({"every": 2, "metrics": ["loss", "hparams"]}, log_dir=tmp_path / "run")
    trainer(tmp_path, callback, accumulate_grad_batches=2, gradient_clip_val=0.5, max_steps=2).fit(module, loader())
    content = Run(tmp_path / "run").plugin("hparams")["_hparams_/session_start_info"]
    recorded = metadata.parse_session_start_info_plugin_data(content).hparams
    numbers = {name: value.number_value for name, value in recorded.items() if value.HasField("number_value")}
    assert numbers == {
        "learning_rate": 1e-2, "weight_decay": 1e-2, "batch_size": 4, "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.5, "lr": 1e-2, "nested/size": 3,
    }  # fmt: skip
    texts = {name: value.string_value for name, value in recorded.items() if name not in numbers}
    assert texts == {"optimizer": "AdamW", "path": "a/b", "loss": "CrossEntropyLoss"}


class WithExperiment(Classifier):
    """Writes through the Trainer's logger."""

    def on_fit_start(self) -> None:
        self.logger.log_hyperparams({"before": 2})
        self.logger.experiment.add_text("own/note", "before the training")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.logger.experiment.add_scalar("own/x", batch_idx, self.global_step)
        self.logger.experiment.add_histogram("own/h", torch.ones(3), self.global_step)
        self.logger.log_metrics({"own/y": 3.0})
        if batch_idx == 1:
            self.logger.log_hyperparams({"late": "yes"})
        return self.net(**batch).loss


def test_lightning_without_logger_experiment_is_writer(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    callback = TbxLightningCallback({"every": 2, "metrics": ["loss", "hparams"]}, log_dir=tmp_path / "run")
    trainer(tmp_path, callback, max_steps=3).fit(WithExperiment(), loader())
    assert callback.log_dir == str(tmp_path / "run")
    read = Run(tmp_path / "run")
    assert read.scalars["own/x"] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert list(read.histograms["own/h"]) == [0, 1, 2]
    assert read.steps("own/y") == [1, 2, 3]  # with the step of the Trainer, as monitors log
    assert (read.texts["own/note"], read.texts["hparams"][-1]) == (["before the training"], "late: yes")
    content = read.plugin("hparams")["_hparams_/session_start_info"]
    recorded = metadata.parse_session_start_info_plugin_data(content).hparams
    assert recorded["before"].number_value == 2
    assert len(files(tmp_path / "run")) == 1


@pytest.mark.parametrize("has_logger", [True, False])
def test_lightning_second_tensorboard_logger_mentioned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, has_logger: bool
) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    callback = TbxLightningCallback("minimal", log_dir=tmp_path / "run")
    logger = TensorBoardLogger(tmp_path / "theirs") if has_logger else False
    for _ in range(2):
        trainer(tmp_path, callback, logger=logger, max_steps=2).fit(Classifier(), loader())
    assert caplog.text.count("the Trainer has a TensorBoardLogger too; pass logger=False") == has_logger


def test_lightning_short_training_interval_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path, TbxLightningCallback("minimal"), log_every_n_steps=50).fit(Classifier(), loader())
    text = "no point of train/loss was due in 8 steps, because log_every_n_steps is 50; set log_every_n_steps=1"
    assert caplog.text.count(text) == 1


def test_lightning_folder_of_tensorboard_logger_avoided(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    callback = TbxLightningCallback("minimal", log_dir=tmp_path / "exp1")
    logger = TensorBoardLogger(tmp_path, name="", version="exp1")
    trainer(tmp_path, callback, logger=logger, max_steps=2).fit(Classifier(), loader())
    assert callback.log_dir == f"{tmp_path}/exp1_2"
