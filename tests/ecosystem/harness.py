"""Trains one model under each trainer and compares each metric with a naive second implementation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import trainer
from tests.helpers.oracles import Named, Recorder, RecordingTrainer, gradients, norm
from tests.helpers.runs import Run

# Lightning warns of settings that suit tests (few workers, no logger), and uses deprecated functions of torch.
LIGHTNING = pytest.mark.filterwarnings("ignore")

SET = {
    "every": 2,
    "metrics": [
        "throughput",
        {"grad_norm": {"by": "total"}},
        {"grad_norm": {"by": "parameter"}},
        {"weight_norm": {"by": "total"}},
        {"weight_norm": {"by": "parameter"}},
    ],
}
Seen = dict[int, tuple[Named, Named]]  # by step: gradients before clipping, weights after the step


class Bag(nn.Module):
    """A model that is not from transformers: it has no configuration and returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(50, 8), nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        mask = attention_mask.unsqueeze(-1)
        logits = self.head((self.words(input_ids) * mask).sum(1) / mask.sum(1))
        return nn.functional.cross_entropy(logits, labels), logits


# All rows have one length, so that torch compiles each frame once.
DATA = [dict(row, attention_mask=[1] * 8) for row in rows()]


def loader() -> Any:
    return torch.utils.data.DataLoader(DATA, batch_size=4, collate_fn=collate)


def inner(model: nn.Module) -> nn.Module:
    return getattr(model, "_orig_mod", model)


def weights(model: nn.Module) -> Named:
    return {name: parameter.detach().clone() for name, parameter in inner(model).named_parameters()}


def with_hf(folder: Path, model: nn.Module, watched: bool, *, attached: bool = False, **options: Any) -> Any:
    callback, recorder = TbxTrainerCallback(SET), Recorder()
    run = trainer(
        folder,
        model=model,
        cls=RecordingTrainer if watched else Trainer,
        callbacks=[callback, recorder] if watched else [],
        remove_unused_columns=False,
        **options,
    )
    run.train_dataset, run.recorder = DATA, recorder
    if watched and attached:
        callback.attach(run)
    run.train()
    seen = {step: (_plain(seen.before_clip), _plain(seen.weights)) for step, seen in recorder.steps.items()}
    return callback.log_dir, seen


def _plain(named: Named) -> Named:
    return {name.removeprefix("_orig_mod."): tensor for name, tensor in named.items()}


def with_hf_attached(folder: Path, model: nn.Module, watched: bool, **options: Any) -> Any:
    return with_hf(folder, model, watched, attached=True, **options)


class Module(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: Seen = {}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        outputs = self.net(**batch)
        return outputs[0] if isinstance(outputs, tuple) else outputs.loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.before = gradients(inner(self.net))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen[self.trainer.global_step] = self.before, weights(self.net)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def with_lightning(folder: Path, model: nn.Module, watched: bool, whole: bool = False) -> Any:
    """`whole` compiles the LightningModule itself."""
    module, callback = Module(model), TbxLightningCallback(SET)
    options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options |= {"max_steps": 8, "accelerator": "cpu", "enable_checkpointing": False, "gradient_clip_val": 1.0}
    callbacks = [callback] if watched else []
    fitted = torch.compile(module, backend="eager") if whole else module
    pl.Trainer(default_root_dir=folder, callbacks=callbacks, **options).fit(fitted, loader())
    return callback.log_dir, module.seen


def with_loop(folder: Path, model: nn.Module, watched: bool) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loop = TbxLoop(model, optimizer, SET, log_dir=folder / "loop", max_grad_norm=1.0) if watched else None
    seen: Seen = {}
    for step, batch in enumerate(loader(), 1):
        outputs = model(**batch)
        loss = outputs[0] if isinstance(outputs, tuple) else outputs.loss
        loss.backward()
        before = gradients(inner(model))
        if loop is not None:
            loop.before_clip()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if loop is not None:
            loop.end_step(loss=loss, samples=4, tokens=batch["attention_mask"].sum())
        seen[step] = before, weights(model)
    if loop is not None:
        loop.close()
    return folder / "loop", seen


def check(variant: Callable[..., Any], kind: Callable[[], nn.Module], folder: Path) -> Run:
    """Trains with and without the callback; compares the weights, and each value with a naive one."""
    plain = kind()
    variant(folder / "plain", plain, False)
    watched = kind()
    log_dir, seen = variant(folder / "watched", watched, True)
    after = weights(watched)
    assert all(torch.equal(after[name], tensor) for name, tensor in weights(plain).items())
    read = Run(log_dir)
    for step in (2, 8):
        for family, named in zip(("grad_norm", "weight_norm"), seen[step], strict=True):
            assert read.family(family) == {"total", *named}
            values = {"total": norm(named), **{name: norm({name: tensor}) for name, tensor in named.items()}}
            for name, value in values.items():
                # a derived norm below float32's resolution of the total is noise, as for key biases
                expected = pytest.approx(value, rel=1e-5, abs=1e-9)
                assert read.at(f"{family}/{name}")[step] == expected, (family, name, step)
        rates = [read.at(f"perf/{unit}_per_s")[step] for unit in ("steps", "samples", "tokens")]
        assert [rate / rates[0] for rate in rates[1:]] == pytest.approx([4, 32])
    return read
