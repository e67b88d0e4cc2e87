"""Tests activations under the HF Trainer, also with gradient checkpointing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.activations import OutputRecorder, check_activations
from tests.helpers.data import FULL
from tests.helpers.models import bert, trainer
from tests.helpers.nets import LAYERS
from tests.helpers.runs import Run

SET: dict[str, Any] = {"every": 2, "metrics": ["activations"]}


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["plain", "reentrant", "not reentrant"])
def test_huggingface_activations_with_checkpointing_match_hooks(
    tmp_path: Path, attached: bool, checkpointing: bool | None
) -> None:
    # transformers recomputes the inside of a layer, other code whole layers: inner hooks see a second pass.
    names = (*LAYERS[:3], "bert.encoder.layer.0.attention", "bert.encoder.layer.1.attention.self.query")
    model = bert()
    callback = TbxTrainerCallback({"every": 2, "metrics": [{"activations": {"modules": f"^({'|'.join(names)})$"}}]})
    watched = OutputRecorder(model, names)
    options: dict[str, Any] = {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    if checkpointing is not None:
        options |= {
            "activation_checkpointing": True,
            "activation_checkpointing_kwargs": {"use_reentrant": checkpointing},
        }
    run = trainer(tmp_path, model=model, callbacks=[callback], max_steps=4, **options)
    watched.step = lambda: run.state.global_step + 1
    if attached:
        callback.attach(run)
    run.train()
    check_activations(Run(callback.log_dir), watched, [2, 4], names)
    calls = [len(watched.calls[2, name]) for name in names[3:]]
    assert calls == ([2, 2] if checkpointing is None else [4, 4])  # the test's own hook sees the repeated passes


def test_huggingface_activations_default_modules_are_layers(tmp_path: Path) -> None:
    model, callback = bert(), TbxTrainerCallback(SET)
    watched = OutputRecorder(model)
    run = trainer(tmp_path, model=model, callbacks=[callback], max_steps=4)
    watched.step = lambda: run.state.global_step + 1
    run.train()
    check_activations(Run(callback.log_dir), watched, [2, 4])


@pytest.mark.parametrize("reentrant", [True, False])
def test_huggingface_training_with_checkpointing_unchanged(tmp_path: Path, reentrant: bool) -> None:
    results = []
    for callbacks in ([TbxTrainerCallback(FULL)], []):
        run = trainer(
            tmp_path,
            callbacks=callbacks,
            max_steps=6,
            logging_steps=1,
            activation_checkpointing=True,
            activation_checkpointing_kwargs={"use_reentrant": reentrant},
        )
        run.train()
        results.append((run.model.state_dict(), torch.get_rng_state()))
    (watched, watched_rng), (plain, plain_rng) = results
    assert all(torch.equal(watched[name], plain[name]) for name in plain)
    assert torch.equal(watched_rng, plain_rng)
