"""Tests that a training leaves nothing behind: no thread, no open file, no hook, no exit handler."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer
from torch.utils.data import DataLoader, TensorDataset
from transformers import TrainerCallback

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback, load_config
from tests.helpers.data import FULL
from tests.helpers.models import trainer
from tests.helpers.processes import python
from tests.helpers.runs import Run, files

RULES = load_config({"metrics": ["loss"], "axis": ["step", "samples"], "rules": {"others": "warn"}})
ROOT = Path(__file__).parents[2]
SET = replace(FULL, axis=RULES.axis, live=RULES.live)
Left = dict[str, Any]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]


def left() -> Left:
    """What this process holds: its threads, open files, torch's global step hooks and exit handlers."""
    gc.collect()
    handles = []
    for number in os.listdir("/proc/self/fd"):
        try:
            handles.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue  # the listing's own handle
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "handles": sorted(handles),
        "step hooks": len(torch_optimizer._global_optimizer_pre_hooks)
        + len(torch_optimizer._global_optimizer_post_hooks),
        "exit handlers": len(weakref.finalize._registry),  # type: ignore[attr-defined]
    }


def module_hooks(model: nn.Module) -> int:
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    return hooks + sum(len(parameter._post_accumulate_grad_hooks or ()) for parameter in model.parameters())


class Raise(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise ValueError("planted")


class Module(lightning.LightningModule):
    raises = False

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("mine", loss)
        if self.raises and index == 2:
            raise ValueError("planted")
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val", self.layer(batch[0]).mean())

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(24.0).reshape(8, 3)), 2)


def loop(folder: Path, *, raises: bool) -> Any:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    made = None
    try:
        with TbxLoop(model, optimizer, SET, log_dir=folder / "run") as made:
            for (inputs,) in made.track(data()):
                outputs = model(inputs)
                loss = outputs.square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                made.end_step(loss=loss, samples=len(inputs), outputs=outputs)
            made.evaluate(accuracy=0.5)
            if raises:
                raise ValueError("planted")
    except ValueError:
        assert raises
    assert module_hooks(model) == 0
    return made


def huggingface(folder: Path, *, raises: bool, attached: bool) -> Any:
    callback = TbxTrainerCallback(SET, log_dir=folder / "run")
    callbacks = [callback, Raise()] if raises else [callback]
    made = trainer(folder, callbacks=callbacks, max_steps=4, logging_steps=2)
    if attached:
        callback.attach(made)
    try:
        made.train()
        made.evaluate()
    except ValueError:
        assert raises
    assert module_hooks(made.model) == 0
    return callback


def lightning_fit(folder: Path, *, raises: bool) -> Any:
    callback, module = TbxLightningCallback(SET, log_dir=folder / "run"), Module()
    module.raises = raises
    made = lightning.Trainer(
        max_epochs=1,
        callbacks=[callback],
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=2,
    )
    try:
        made.fit(module, data(), data())
        made.test(module, data(), verbose=False)
    except ValueError:
        assert raises
    assert not made.loggers
    assert module_hooks(module) == 0
    return callback


TRAININGS: dict[str, Callable[[Path], Any]] = {
    "loop": lambda folder: loop(folder, raises=False),
    "loop that raises": lambda folder: loop(folder, raises=True),
    "huggingface": lambda folder: huggingface(folder, raises=False, attached=False),
    "huggingface attached": lambda folder: huggingface(folder, raises=False, attached=True),
    "huggingface attached that raises": lambda folder: huggingface(folder, raises=True, attached=True),
    "lightning": lambda folder: lightning_fit(folder, raises=False),
    "lightning that raises": lambda folder: lightning_fit(folder, raises=True),
}


@pytest.mark.parametrize("training", TRAININGS)
def test_training_leaves_nothing_while_callback_lives(tmp_path: Path, training: str) -> None:
    TRAININGS[training](tmp_path / "first")  # libraries keep threads of their own
    before = left()
    callback = TRAININGS[training](tmp_path / "second")
    assert left() == before
    assert Run(tmp_path / "second/run").scalars
    reference = weakref.ref(callback)
    del callback
    gc.collect()
    assert reference() is None


FIFTY = """
import itertools, resource, tempfile, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from tests.trainers.test_left_behind import TRAININGS, left
with tempfile.TemporaryDirectory() as folder:
    for name, training in TRAININGS.items():
        training(Path(folder) / name)  # libraries keep threads of their own
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    kept, before = [], left()
    for number, name in zip(range(50), itertools.cycle(TRAININGS)):
        kept.append(TRAININGS[name](Path(folder) / str(number)))
        after = left()
        assert after == before, (name, before, after)
"""


@pytest.mark.slow
def test_fifty_trainings_fit_few_open_files() -> None:
    done = python("-c", FIFTY, cwd=ROOT, seconds=300)
    assert done.returncode == 0, done.stderr[-3000:]


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda item: pickle.loads(pickle.dumps(item)),
}


class CopyAndClose(TrainerCallback):
    """Copies the callback under test after each step, and closes the copy."""

    def __init__(self, callback: Any, how: str) -> None:
        self.callback, self.how = callback, how

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        other = COPIES[self.how](self.callback)
        assert (other.log_dir, other.step) == (None, 0)
        other.close()


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("how", COPIES)
def test_huggingface_copies_closed_change_nothing(tmp_path: Path, how: str, attached: bool) -> None:
    callback = TbxTrainerCallback("default", log_dir=tmp_path / "run")
    made = trainer(tmp_path, callbacks=[callback, CopyAndClose(callback, how)], max_steps=4, logging_steps=1)
    if attached:
        callback.attach(made)
    made.train()
    read = Run(tmp_path / "run")
    assert (read.steps("train/loss"), read.steps("train/learning_rate")) == ([1, 2, 3, 4], [1, 2, 3, 4])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == ["run"]
    assert len(files(tmp_path / "run")) == 1


@pytest.mark.parametrize("how", COPIES)
def test_huggingface_copy_after_training_trains_beside(tmp_path: Path, how: str) -> None:
    callback = TbxTrainerCallback("default", log_dir=tmp_path / "run")
    first = trainer(tmp_path, callbacks=[callback], max_steps=4, logging_steps=2)
    callback.attach(first)
    first.train()
    other = COPIES[how](callback)
    assert other._trainer is None
    second = trainer(tmp_path, callbacks=[other], max_steps=2, logging_steps=1)
    other.attach(second)
    second.train()
    assert Run(tmp_path / "run").steps("train/loss") == [2, 4]
    assert Run(tmp_path / "run_2").steps("train/loss") == [1, 2]


@pytest.mark.parametrize("how", COPIES)
def test_lightning_copy_closed_changes_nothing(tmp_path: Path, how: str) -> None:
    class Copies(lightning.Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            COPIES[how](callback).close()

    callback = TbxLightningCallback("default", log_dir=tmp_path / "run")
    made = lightning.Trainer(
        max_epochs=1,
        callbacks=[callback, Copies()],
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    made.fit(Module(), data(), data())
    assert Run(tmp_path / "run").steps("train/loss") == [1, 2, 3, 4]
    assert len(files(tmp_path / "run")) == 1


def test_huggingface_evaluations_after_training_share_file(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("default", log_dir=tmp_path / "run")
    made = trainer(tmp_path, callbacks=[callback], max_steps=4, logging_steps=2)
    made.train()
    before = left()
    for number in range(5):
        made.evaluate(metric_key_prefix=f"eval_{number}")
        made.model.train()  # what is logged in evaluation mode belongs to the next evaluation
        callback.log(f"mine/{number}", 1.0)
        callback.writer.add_scalar(f"own/{number}", 1.0, 4)
    callback.close()
    assert left() == before
    read = Run(tmp_path / "run")
    assert read.family("own") == {"0", "1", "2", "3", "4"}
    assert read.family("mine") == {"0", "1", "2", "3", "4"}
    assert len(files(tmp_path / "run")) == 1
