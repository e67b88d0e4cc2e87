"""Tests that an HF training ended by an exception leaves no hook of the callback behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer

from tbx_callbacks import TbxTrainerCallback
from tbx_callbacks.integrations.huggingface.abandoned_training import StillTraining
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run
from tests.helpers.variations import variations

pytestmark = pytest.mark.slow

PLAIN: list[Any] = ["loss", {"update_norm": {"by": "total"}}, "activations"]
SETS = {
    "activations": PLAIN,
    "batches": [*PLAIN, "throughput"],
    "outputs": [*PLAIN, "train_accuracy", "outputs"],
}


class Bad(Trainer):
    """Raises once, in its second step, before or after the model's forward pass."""

    moment, raises = "before", KeyboardInterrupt

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        bad = self.state.global_step == 1 and self.moment
        if bad == "before":
            raise self.raises
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if bad == "after":
            raise self.raises
        return loss


def forward_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def optimizer_hooks(run: Trainer) -> int:
    optimizer = run.optimizer.optimizer
    return len(optimizer._optimizer_step_post_hooks) + len(optimizer._optimizer_step_pre_hooks)


def left(
    folder: Path, chosen: str, moment: str, raises: type[BaseException], *, attached: bool
) -> tuple[TbxTrainerCallback, Bad]:
    callback = TbxTrainerCallback({"every": 1, "metrics": SETS[chosen]}, log_dir=folder / "run")
    run: Any = trainer(folder, model=bert(), cls=Bad, callbacks=[callback], max_steps=4)
    run.moment, run.raises = moment, raises
    if attached:
        callback.attach(run)
    with pytest.raises(raises):
        run.train()
    return callback, run


@pytest.mark.parametrize("raises", variations([KeyboardInterrupt, ValueError], KeyboardInterrupt))
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("chosen", SETS)
def test_abandoned_training_next_forward_pass_removes_hooks(
    tmp_path: Path, chosen: str, moment: str, raises: type[BaseException]
) -> None:
    callback, run = left(tmp_path, chosen, moment, raises, attached=False)
    recorder = callback._session._engine.recorder
    assert recorder is not None
    had_hooks = forward_hooks(run.model)
    if moment == "before":
        assert had_hooks > 5  # proves that the test can fail
    run.model.train()
    run.model(**collate(rows(2)))
    assert forward_hooks(run.model) == 0
    if had_hooks:
        assert optimizer_hooks(run) == 0
        assert recorder._activations._step_values is None
    run.optimizer.step()  # no forward hook is left to notice it: the optimizer's hook does
    assert optimizer_hooks(run) == 0
    callback.close()
    assert Run(callback.log_dir).steps("update_norm/total") == [1]


@pytest.mark.parametrize("raises", variations([KeyboardInterrupt, ValueError], KeyboardInterrupt))
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("chosen", SETS)
def test_abandoned_training_attached_ends_at_once(
    tmp_path: Path, chosen: str, moment: str, raises: type[BaseException]
) -> None:
    callback, run = left(tmp_path, chosen, moment, raises, attached=True)
    assert not callback._session.running
    assert (forward_hooks(run.model), optimizer_hooks(run)) == (0, 0)
    assert Run(callback.log_dir).steps("update_norm/total") == [1]


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("used", variations([True, False], True))
@pytest.mark.parametrize("chosen", SETS)
def test_abandoned_training_second_training_complete(tmp_path: Path, chosen: str, used: bool, attached: bool) -> None:
    callback, run = left(tmp_path, chosen, "before", KeyboardInterrupt, attached=attached)
    if used:
        run.model(**collate(rows(2)))
    run.moment = ""
    run.train()
    assert (forward_hooks(run.model), optimizer_hooks(run)) == (0, 0)
    callback.close()
    read = Run(callback.log_dir)
    norms = [tag for tag in read.scalars if tag.endswith("bert.pooler/norm")]
    assert [read.steps(tag) for tag in norms] == [[1, 2, 3, 4]]
    assert read.steps("update_norm/total")[-4:] == [1, 2, 3, 4]
    if chosen == "outputs":
        assert read.steps("train/accuracy")[-4:] == [1, 2, 3, 4]


def test_swallowed_exception_misses_only_its_step(tmp_path: Path) -> None:
    """A wrapper around the callback swallows an exception and continues."""
    callback = TbxTrainerCallback({"every": 1, "metrics": PLAIN}, log_dir=tmp_path / "run")
    run: Any = trainer(tmp_path, model=bert(), cls=Bad, callbacks=[callback], max_steps=4)
    run.raises = ValueError
    callback.attach(run)
    ours: Callable[..., Any] = run.training_step

    def saved(*args: Any, **kwargs: Any) -> Any:
        try:
            return ours(*args, **kwargs)
        except ValueError:
            return torch.zeros(())

    run.training_step = saved
    run.train()
    read = Run(callback.log_dir)
    assert read.steps("update_norm/total") == read.steps("activations/bert.pooler/norm") == [1, 3, 4]


def test_still_training_only_inside_train(tmp_path: Path) -> None:
    asked: list[Callable[[], bool]] = []
    elsewhere: list[bool] = []

    class Asking(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            asked.append(StillTraining())
            assert asked[0]()
            return super().compute_loss(*args, **kwargs)

    trainer(tmp_path, cls=Asking, max_steps=2).train()
    assert not asked[0]()
    thread = threading.Thread(target=lambda: elsewhere.append(asked[0]()))
    thread.start()
    thread.join()
    assert elsewhere == [True]  # another thread cannot know
    assert StillTraining()()  # nor when no Trainer trains
