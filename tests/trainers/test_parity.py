"""Tests that the same training under each trainer writes the same tags, steps and values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tests.helpers.data import EVERY_KIND, collate, rows
from tests.helpers.models import accuracy, bert
from tests.helpers.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests

MORE = ["train_accuracy", {"grad_histogram": {"every": 4}}, {"activations": {"every": 4}}]
MORE += ["outputs", "memory", "layout", "amp", {"optimizer_state": {"by": "layer"}}]
MORE += [{"update_ratio": {"by": "layer"}}, {"update_histogram": {"every": 4}}]
SET = {**EVERY_KIND, "metrics": [*EVERY_KIND["metrics"], *MORE]}
STEPS, CLIP = 8, 0.05
# Tags that not every trainer writes (its summary, its own counter), or that depend on a clock.
OWN = ("train/grad_norm", "train/epoch", "train/t", "epoch", "eval/", "best/", "perf/", "memory/")


class Net(nn.Module):
    """A model without **kwargs; with them the HF Trainer assumes that the model averages its loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        return self.net(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def loader() -> DataLoader[Any]:
    return DataLoader(rows(64), batch_size=4, collate_fn=collate)


def optimizers(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1, "name": "decay"},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0, "name": "no_decay"},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)


class InOrder(Trainer):
    def get_train_dataloader(self) -> Any:
        return loader()


def with_hf(folder: Path, accumulate: int) -> tuple[str | None, nn.Module]:
    model, callback = Net(), TbxTrainerCallback(SET)
    args = TrainingArguments(
        str(folder),
        max_steps=STEPS,
        logging_steps=2,
        max_grad_norm=CLIP,
        gradient_accumulation_steps=accumulate,
        eval_strategy="steps",
        eval_steps=4,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = InOrder(
        model=model,
        args=args,
        train_dataset=rows(64),
        eval_dataset=rows(16, seed=5),
        data_collator=collate,
        compute_metrics=accuracy,
        optimizers=optimizers(model),
        callbacks=[callback],
    )
    callback.attach(trainer)
    trainer.train()
    return callback.log_dir, model


class Module(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.model(**batch).loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        hits = self.model(**batch).logits.argmax(-1) == batch["labels"]
        self.log("eval/accuracy", hits.float().mean(), batch_size=len(hits))

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = optimizers(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def with_lightning(folder: Path, accumulate: int) -> tuple[str | None, nn.Module]:
    module, callback = Module(Net()), TbxLightningCallback(SET)
    trainer = pl.Trainer(
        default_root_dir=folder,
        callbacks=[callback],
        max_steps=STEPS,
        max_epochs=-1,
        log_every_n_steps=2,
        gradient_clip_val=CLIP,
        accumulate_grad_batches=accumulate,
        val_check_interval=4 * accumulate,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, loader(), DataLoader(rows(16, seed=5), batch_size=8, collate_fn=collate))
    return callback.log_dir, module.model


def with_loop(folder: Path, accumulate: int) -> tuple[str | None, nn.Module]:
    model = Net()
    optimizer, scheduler = optimizers(model)
    held_out = collate(rows(16, seed=5))
    with TbxLoop(model, optimizer, SET, log_dir=folder / "run", log_every=2, max_grad_norm=CLIP) as loop:
        passes = 0
        while loop.step < STEPS:
            for batch in loader():
                outputs = model(**batch)
                loss = outputs.loss
                (loss / accumulate).backward()
                passes += 1
                if passes % accumulate == 0:
                    loop.before_clip()
                    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                seen = {"outputs": outputs, "labels": batch["labels"]}
                loop.end_step(loss=loss, samples=4, tokens=batch["attention_mask"].sum(), **seen)
                if passes % (4 * accumulate) == 0:
                    model.eval()
                    with torch.no_grad():
                        hits = model(**held_out).logits.argmax(-1) == held_out["labels"]
                    loop.evaluate(accuracy=hits.float().mean())
                    model.train()
                if loop.step == STEPS:
                    break
    return loop.log_dir, model


VARIANTS: dict[str, Callable[[Path, int], tuple[str | None, nn.Module]]] = {
    "hf": with_hf,
    "lightning": with_lightning,
    "loop": with_loop,
}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_three_trainers_write_same_values(tmp_path: Path, accumulate: int) -> None:
    read, weights = {}, {}
    for name, variant in VARIANTS.items():
        folder, model = variant(tmp_path / name, accumulate)
        read[name], weights[name] = Run(folder), model.state_dict()
    for name in ("lightning", "loop"):
        for key, tensor in weights["hf"].items():
            # The trainers differ by rounding only, so any other difference below comes from the callback.
            torch.testing.assert_close(weights[name][key], tensor, rtol=1e-5, atol=1e-6)
        compare(read[name], read["hf"])
    fractions = [step * accumulate / 16 for step in (2, 4, 6, 8)]
    for name in ("lightning", "hf"):
        assert [read[name].at("train/epoch")[step] for step in (2, 4, 6, 8)] == pytest.approx(fractions)


# Before 5.0 the Trainer rounded the loss that it logs to four digits.
ROUNDED_TO = 1e-7 if Version(transformers.__version__) >= Version("5.0") else 5.1e-5


def compare(ours: Run, reference: Run) -> None:
    assert shared(ours) == shared(reference)
    assert {
        "train/loss",
        "train/accuracy",
        "train/learning_rate",
        "clip/factor",
        "grad_norm/net.bert.encoder.layer.1",
    } < shared(ours)
    for tag in {*shared(reference), "eval/accuracy", "best/accuracy"}:
        # A key's bias has only rounding errors as gradient, since softmax ignores it.
        zero = ROUNDED_TO if tag == "train/loss" else 1e-7
        expected = [(step, pytest.approx(value, rel=1e-5, abs=zero)) for step, value in reference.scalars[tag]]
        assert ours.scalars[tag] == expected, tag
    assert ours.family("perf") == reference.family("perf")
    assert ours.steps("perf/step_s") == reference.steps("perf/step_s")
    assert set(ours.histograms) == set(reference.histograms)
    for tag, histograms in reference.histograms.items():
        points = [4, 8] if tag.startswith("activations/") else [1, 4, 8]
        assert list(ours.histograms[tag]) == list(histograms) == points
        for step, proto in histograms.items():
            other = ours.histograms[tag][step]
            moved = sum(abs(a - b) for a, b in zip(other.bucket, proto.bucket, strict=True))
            assert moved <= 2, (tag, step)  # rounding may move one element across an edge
            near = 1e-5 * (proto.max - proto.min)  # an edge near 0 is as exact as the range
            assert list(other.bucket_limit) == pytest.approx(list(proto.bucket_limit), rel=1e-5, abs=near)


def shared(run: Run) -> set[str]:
    return {tag for tag in run.scalars if not tag.startswith(OWN)}
