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
from tests.helpers.data import FULL, collate, rows
from tests.helpers.models import trainer
from tests.helpers.processes import python
from tests.helpers.runs import Run, files
from tests.helpers.variations import variations

RULES = load_config({"metrics": ["loss"], "axis": ["step", "samples"], "rules": {"others": "warn"}})
ROOT = Path(__file__).parents[2]
SET = replace(FULL, axis=RULES.axis, live=RULES.live)
Left = dict[str, Any]
pytestmark = [
    pytest.mark.slow,
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


def lightning_trainer(folder: Path, callbacks: list[Any], *, log_every_n_steps: int) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=1,
        callbacks=callbacks,
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=log_every_n_steps,
    )


def lightning_fit(folder: Path, *, raises: bool) -> Any:
    callback, module = TbxLightningCallback(SET, log_dir=folder / "run"), Module()
    module.raises = raises
    made = lightning_trainer(folder, [callback], log_every_n_steps=2)
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


@pytest.mark.slow
@pytest.mark.parametrize("training", variations(TRAININGS, "loop that raises", "huggingface attached", "lightning"))
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


@pytest.mark.thorough
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
    made = lightning_trainer(tmp_path, [callback, Copies()], log_every_n_steps=1)
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


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def changed(model: nn.Module, before: list[torch.Tensor]) -> bool:
    return any(not torch.equal(new, old) for new, old in zip(model.parameters(), before, strict=True))


def test_copy_of_attached_trainer_trains_itself(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("default")
    first = trainer(tmp_path, callbacks=[callback], max_steps=4, logging_steps=2)
    callback.attach(first)
    second = copy.deepcopy(first)
    before = weights(first.model), weights(second.model)
    second.train()
    assert (changed(first.model, before[0]), changed(second.model, before[1])) == (False, True)
    assert callback.log_dir is None
    (other,) = [one for one in second.callback_handler.callbacks if isinstance(one, TbxTrainerCallback)]
    assert Run(other.log_dir).steps("train/loss") == [2, 4]
    first.train()
    assert Run(callback.log_dir).steps("grad_norm/total") == [2, 4]


def test_attached_method_outside_training_is_itself(tmp_path: Path) -> None:
    callback = TbxTrainerCallback("default")
    made = trainer(tmp_path, callbacks=[callback])
    callback.attach(made)
    made.model(**collate(rows(2))).loss.backward()
    assert made.accelerator.clip_grad_norm_(made.model.parameters(), 1.0) > 0


@pytest.mark.slow
def test_attached_callbacks_dropped_leave_one_wrapper(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_steps=1)
    sessions = []
    for _ in range(5):
        callback = TbxTrainerCallback("minimal").attach(made)
        made.train()
        made.remove_callback(callback)
        sessions.append(weakref.ref(callback._session))
        del callback
        gc.collect()
    assert not any(session() for session in sessions)
    step: Any = made.training_step
    assert not hasattr(step.__wrapped__, "__wrapped__")
    made.train()


class RemoveAt(TrainerCallback):
    """Removes the callback under test after two steps, and forgets it."""

    def __init__(self) -> None:
        self.made: Any = None
        self.session: Any = None
        self.log_dir: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            (callback,) = [one for one in self.made.callback_handler.callbacks if isinstance(one, TbxTrainerCallback)]
            self.log_dir, self.session = callback.log_dir, weakref.ref(callback._session)
            self.made.remove_callback(callback)


@pytest.mark.slow
@pytest.mark.parametrize("attached", [True, False])
def test_callback_removed_while_training_leaves_nothing(tmp_path: Path, attached: bool) -> None:
    before, remove = left(), RemoveAt()
    remove.made = trainer(tmp_path, callbacks=[TbxTrainerCallback(SET), remove], max_steps=4, logging_steps=1)
    for callback in remove.made.callback_handler.callbacks:
        if attached and isinstance(callback, TbxTrainerCallback):
            callback.attach(remove.made)
    del callback
    remove.made.train()
    assert module_hooks(remove.made.model) == 0
    assert left() == before
    assert remove.session() is None
    assert Run(remove.log_dir).steps("weight_norm/total") == [1, 2]


def test_lightning_callback_removed_while_training_leaves_nothing(tmp_path: Path) -> None:
    class Remove(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            trainer.callbacks[:] = [one for one in trainer.callbacks if not isinstance(one, TbxLightningCallback)]

    before, callback = left(), TbxLightningCallback(SET, log_dir=tmp_path / "run")
    session = weakref.ref(callback._session)
    module = Module()
    made = lightning_trainer(tmp_path, [callback, Remove()], log_every_n_steps=1)
    del callback
    made.fit(module, data(), data())
    assert module_hooks(module) == 0
    assert left() == before
    assert session() is None
    assert Run(tmp_path / "run").steps("grad_norm/total") == [1]


@pytest.mark.parametrize("attached", [True, False])
def test_log_after_training_written_when_dropped(tmp_path: Path, attached: bool) -> None:
    def train() -> None:
        callback = TbxTrainerCallback("default", log_dir=tmp_path / "run")
        made = trainer(tmp_path, callbacks=[callback], max_steps=2)
        if attached:
            callback.attach(made)
        made.train()
        callback.log("final/score", 2.5)

    train()
    gc.collect()
    assert Run(tmp_path / "run").at("final/score") == {2: 2.5}


def test_dropped_in_circle_ends_rules_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gc.disable()
    try:
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        made: Any = TbxLoop(model, optimizer, "default", log_dir=tmp_path / "run", log_every=2)
        for _ in range(5):
            model(torch.ones(1, 3)).square().mean().backward()
            optimizer.step()
            made.end_step(loss=1.0, samples=1)
            made.log("mine", 1.0)
        made.circle = made
        del made
    finally:
        gc.enable()
    gc.collect()
    assert not [message for message in caplog.messages if "did not finish" in message]
    assert Run(tmp_path / "run").steps("mine") == [2, 4, 5]


class CopyModel(TrainerCallback):
    """Copies and stores the model in the middle of each step, as for a mean teacher."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.teachers = folder, list[nn.Module]()

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.teachers.append(copy.deepcopy(model))
        torch.save(model, self.folder / f"{state.global_step}.pt")


@pytest.mark.parametrize("attached", [True, False])
def test_model_with_hooks_copied_and_stored(tmp_path: Path, attached: bool) -> None:
    callback, copies = TbxTrainerCallback(SET, log_dir=tmp_path / "run"), CopyModel(tmp_path)
    made = trainer(tmp_path, callbacks=[callback, copies], max_steps=2)
    if attached:
        callback.attach(made)
    made.train()
    names = Run(tmp_path / "run").family("activations")
    assert names
    for step, teacher in enumerate(copies.teachers):
        stored = (tmp_path / f"{step}.pt").read_bytes()
        assert b"tbx_callbacks" not in stored
        loaded = torch.load(tmp_path / f"{step}.pt", weights_only=False)
        expected = teacher.eval()(**collate(rows(2))).logits
        assert torch.equal(loaded.eval()(**collate(rows(2))).logits, expected)


def test_callback_of_two_trainers_keeps_runs_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = TbxTrainerCallback("minimal")
    first, second = (trainer(tmp_path / name, callbacks=[callback], max_steps=2) for name in "ab")
    first.train()
    first.evaluate()
    own = callback.log_dir
    second.train()
    first.evaluate()
    assert "eval/loss" in Run(own).scalars
    assert "eval/loss" not in Run(callback.log_dir).scalars
    assert sum("values of another Trainer are left out" in message for message in caplog.messages) == 1


FORKED = """
import os, sys
from pathlib import Path
from transformers import TrainerCallback
from tbx_callbacks import TbxTrainerCallback
from tests.helpers.models import trainer
from tests.helpers.runs import Run

class Fork(TrainerCallback):
    child = None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2 and Fork.child is None:
            Fork.child = os.fork()
            if Fork.child == 0:
                again = trainer(Path(sys.argv[1]) / "child", callbacks=[callback], max_steps=3, logging_steps=1)
                again.train()
                right = Run(callback.log_dir).steps("train/loss") == [1, 2, 3]
                os._exit(0 if right and "child" in callback.log_dir else 1)

callback = TbxTrainerCallback("default")
trainer(Path(sys.argv[1]) / "parent", callbacks=[callback, Fork()], max_steps=4, logging_steps=1).train()
assert os.waitstatus_to_exitcode(os.waitpid(Fork.child, 0)[1]) == 0
assert Run(callback.log_dir).steps("train/loss") == [1, 2, 3, 4]
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_trains_with_inherited_callback(tmp_path: Path) -> None:
    done = python("-W", "ignore", "-c", FORKED, tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
