"""Tests PEFT models: only trained parameters have gradients, and each belongs to the layer that it adapts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLightningCallback, TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.oracles import Named, Recorder, RecordingTrainer, gradients, norm
from tests.helpers.runs import Run

peft = pytest.importorskip("peft")
# peft reads deprecated attributes of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

SET = {
    "every": 2,
    "metrics": [
        {"grad_norm": {"by": "total"}},
        {"grad_norm": {"by": "layer"}},
        {"grad_norm_clipped": {"by": "layer"}},
        {"weight_norm": {"by": "layer"}},
        {"weight_norm": {"by": {"lora": r"\.lora_[AB]\.", "base": r"\.base_layer\."}}},
        {"grad_histogram": {"by": "layer"}},
    ],
}
FROZEN = {"bert.pooler", "classifier.original_module"}
TRAINED = {"bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "classifier"}


def adapted(**changes: Any) -> nn.Module:
    model = bert()  # sets the seed
    targets = ["query", "value", "word_embeddings"]
    return peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=targets, **changes))


def by_layer(tensors: Named) -> dict[str, Named]:
    """The layers of the adapted BERT, listed by PEFT's parameter names."""
    groups: dict[str, Named] = {}
    for name, tensor in tensors.items():
        (layer,) = [
            layer
            for layer in (FROZEN | TRAINED)
            if f"base_model.model.{layer}." in name and not (layer == "classifier" and "original_module" in name)
        ]
        groups.setdefault(layer, {})[name] = tensor
    return groups


def norms(tensors: Named) -> dict[str, float]:
    return {layer: pytest.approx(norm(group), rel=1e-5) for layer, group in by_layer(tensors).items()}


def read_step(read: Run, family: str, step: int) -> dict[str, float]:
    return {group: read.at(f"{family}/{group}")[step] for group in read.family(family)}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("attached", [False, True])
def test_peft_metrics_match_naive_computation(tmp_path: Path, attached: bool, dora: bool) -> None:
    callback, recorder = TbxTrainerCallback(SET), Recorder()
    model = adapted(use_dora=dora)
    run = trainer(tmp_path, model=model, cls=RecordingTrainer, callbacks=[callback, recorder], max_grad_norm=0.05)
    run.recorder = recorder
    if attached:
        callback.attach(run)
    run.train()
    read = Run(callback.log_dir)
    for step in (2, 8):
        seen = recorder.steps[step]
        assert set(by_layer(seen.before_clip)) == TRAINED
        assert read_step(read, "grad_norm", step) == norms(seen.before_clip) | {
            "total": pytest.approx(norm(seen.before_clip), rel=1e-5)
        }
        assert read_step(read, "grad_norm_clipped", step) == norms(seen.after_clip)
        parts = {
            "lora": {n: w for n, w in seen.weights.items() if ".lora_A." in n or ".lora_B." in n},
            "base": {n: w for n, w in seen.weights.items() if ".base_layer." in n},
        }
        expected = norms(seen.weights) | {part: pytest.approx(norm(own), rel=1e-5) for part, own in parts.items()}
        assert read_step(read, "weight_norm", step) == expected
    assert set(read.histograms) == {f"grads/{layer}" for layer in TRAINED}
    assert read.histograms["grads/classifier"][8].num == sum(p.numel() for p in bert().classifier.parameters())


def test_peft_training_with_callback_unchanged(tmp_path: Path) -> None:
    results = []
    for watched in (True, False):
        callback = TbxTrainerCallback({"extends": "full", "every": 1})
        run = trainer(tmp_path, model=adapted(lora_dropout=0.1), callbacks=[callback] if watched else [])
        if watched:
            callback.attach(run)
        run.train()
        results.append((run.model.state_dict(), torch.get_rng_state()))
    (watched_state, watched_rng), (plain_state, plain_rng) = results
    assert all(torch.equal(watched_state[name], plain_state[name]) for name in plain_state)
    assert torch.equal(watched_rng, plain_rng)


@pytest.mark.filterwarnings("ignore")  # as in tests/trainers/test_lightning.py
def test_peft_in_lightning_module_matches_naive_computation(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = adapted()
            self.seen: list[Named] = []

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.net(**batch).loss

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.seen.append(gradients(self.net))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)

    module, callback = Module(), TbxLightningCallback(SET)
    options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options |= {"max_steps": 8, "accelerator": "cpu", "enable_checkpointing": False, "gradient_clip_val": 0.05}
    data = torch.utils.data.DataLoader(rows(), batch_size=4, collate_fn=collate)
    pl.Trainer(default_root_dir=tmp_path, callbacks=[callback], **options).fit(module, data)
    read = Run(callback.log_dir)
    for step in (2, 8):
        before = module.seen[step - 1]
        expected = norms(before) | {"total": pytest.approx(norm(before), rel=1e-5)}
        assert read_step(read, "grad_norm", step) == expected
    assert read.family("weight_norm") >= FROZEN
