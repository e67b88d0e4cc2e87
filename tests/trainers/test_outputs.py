"""Tests additional losses and predictions that a model returns, under each trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tbx_callbacks._model.outputs import Losses, Predictions
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run

SET: dict[str, Any] = {"every": 2, "metrics": ["outputs", "train_accuracy"]}


class ManyLosses(nn.Module):
    """A BERT that returns additional losses, and records its outputs in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = bert()
        self.seen: list[dict[str, float]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Any]:
        given = self.net(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        aux, mlm = given.logits.square().mean(), given.logits.abs().mean()
        if not self.training:
            return {"loss": given.loss, "logits": given.logits}
        hits = (given.logits.argmax(-1) == labels).sum().item()
        self.seen.append({"aux_loss": aux.item(), "loss_mlm": mlm.item(), "hits": hits, "labels": len(labels)})
        each = given.logits.sum(-1)  # not a scalar
        loss = given.loss + 0.1 * aux
        return {"loss": loss, "logits": given.logits, "aux_loss": aux, "loss_mlm": mlm, "losses": each, "other": aux}


def check(read: Run, seen: list[dict[str, float]], accumulate: int) -> None:
    assert read.family("train") & {"aux_loss", "loss_mlm", "losses", "other", "accuracy"} == {
        "aux_loss", "loss_mlm", "accuracy",
    }  # fmt: skip
    assert read.steps("train/aux_loss") == read.steps("train/accuracy") == [2, 4, 6, 8]
    for step in (2, 4, 6, 8):
        since = seen[(step - 2) * accumulate : step * accumulate]
        for name in ("aux_loss", "loss_mlm"):
            mean = sum(one[name] for one in since) / len(since)
            assert read.at(f"train/{name}")[step] == pytest.approx(mean, rel=1e-5)
        share = sum(one["hits"] for one in since) / sum(one["labels"] for one in since)
        assert read.at("train/accuracy")[step] == pytest.approx(share, rel=1e-5)


def loader(number: int = 64) -> Any:
    return torch.utils.data.DataLoader(rows(number), batch_size=4, collate_fn=collate)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("attached", [True, False])
def test_outputs_under_huggingface_losses_and_accuracy(tmp_path: Path, attached: bool, accumulate: int) -> None:
    model, callback = ManyLosses(), TbxTrainerCallback({**SET, "metrics": [*SET["metrics"], "throughput"]})
    options: dict[str, Any] = {"gradient_accumulation_steps": accumulate, "eval_strategy": "steps", "eval_steps": 3}
    run = trainer(tmp_path, model=model, callbacks=[callback], **options)
    if attached:
        callback.attach(run)
    run.train()
    read = Run(callback.log_dir)
    check(read, model.seen, accumulate)
    assert read.at("perf/samples_per_s")[8] / read.at("perf/steps_per_s")[8] == pytest.approx(4 * accumulate, rel=0.3)
    assert not model._forward_hooks


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests
def test_outputs_under_lightning_losses_and_accuracy(tmp_path: Path, accumulate: int) -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = ManyLosses()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.model(**batch)["loss"]

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.model(**batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    module, callback = Module(), TbxLightningCallback(SET)
    run = pl.Trainer(
        default_root_dir=tmp_path,
        callbacks=[callback],
        max_steps=8,
        accumulate_grad_batches=accumulate,
        val_check_interval=4,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    run.fit(module, loader(), loader(8))
    check(Run(callback.log_dir), module.model.seen, accumulate)
    assert not module.model._forward_hooks


@pytest.mark.parametrize("accumulate", [1, 2])
def test_outputs_in_loop_losses_and_accuracy(tmp_path: Path, accumulate: int) -> None:
    model = ManyLosses()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path) as loop:
        for number, batch in enumerate(loader(), 1):
            outputs = model(**batch)
            outputs["loss"].backward()
            if number % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
            loop.end_step(outputs=outputs, labels=batch["labels"])
            if loop.step == 8:
                break
    check(Run(tmp_path), model.seen, accumulate)


def tokens(cls: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return cls(BertConfig(**sizes, intermediate_size=32, max_position_embeddings=16, num_labels=5))


def test_outputs_token_labels_ignore_minus_100(tmp_path: Path) -> None:
    model, expected = tokens(BertForTokenClassification), {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, {"every": 1, "metrics": ["train_accuracy"]}, log_dir=tmp_path) as loop:
        for step, batch in enumerate(loader(12), 1):
            ids, mask = batch["input_ids"], batch["attention_mask"]
            labels = torch.where(mask == 1, ids % 5, -100)
            given = model(input_ids=ids, attention_mask=mask, labels=labels)
            given.loss.backward()
            optimizer.step()
            loop.end_step(outputs=given, labels=labels)
            right = [
                int(guess == label)
                for guess, label in zip(given.logits.argmax(-1).flatten(), labels.flatten(), strict=True)
                if label != -100
            ]
            expected[step] = pytest.approx(sum(right) / len(right), rel=1e-5)
    assert Run(tmp_path).at("train/accuracy") == expected


@pytest.mark.parametrize(("columns", "counted"), [(49, 6), (50, 0), (64, 0)])
def test_outputs_logits_over_vocabulary_no_accuracy(columns: int, counted: int) -> None:
    predictions = Predictions(tokens(BertForMaskedLM))  # logits over 50 words
    predictions.add({"logits": torch.randn(2, 3, columns)}, torch.zeros(2, 3, dtype=torch.int64))
    assert predictions.totals()[1] == counted


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.randn(4, 1), torch.zeros(4, dtype=torch.int64)),  # regression
        (torch.randn(4, 3), torch.zeros(4, 3)),  # several labels at once
        (torch.randn(4, 3), torch.zeros(4)),
        (torch.randn(4), torch.zeros(4, dtype=torch.int64)),
        (torch.randn(4, 3), torch.zeros(5, dtype=torch.int64)),
        (torch.randn(4, 3), None),
        (None, torch.zeros(4, dtype=torch.int64)),
    ],
)
def test_outputs_without_classification_ignored(logits: Any, labels: Any) -> None:
    predictions = Predictions()
    predictions.add({"logits": logits}, labels)
    assert predictions.totals() == (0, 0)


@pytest.mark.parametrize("make", [lambda n: torch.randn(n, 3), lambda n: torch.randn(n, 1 << 16)])
def test_outputs_many_batches_counted(make: Callable[[int], Tensor]) -> None:
    predictions, hits, count = Predictions(), 0, 0
    for number in range(1, 80):
        logits, labels = make(number % 7 + 1), torch.randint(-1, 3, (number % 7 + 1,))
        predictions.add(logits, labels)
        hits += (logits.argmax(-1) == labels).sum().item()
        count += (labels >= 0).sum().item()
    assert predictions.totals() == (hits, count)


def test_outputs_nan_loss_forgotten_at_next_point() -> None:
    losses = Losses()
    for value in (1.0, float("nan")):
        losses.add({"aux_loss": torch.tensor(value)})
    assert torch.as_tensor(losses.pop()["aux_loss"][0]).isnan()
    losses.add({"aux_loss": torch.tensor(3.0), "logits": torch.ones(2), "loss": torch.tensor(1.0)})
    ((total, count),) = losses.pop().values()
    assert (float(total), count) == (3.0, 1)
    assert losses.pop() == {}


@pytest.mark.filterwarnings("ignore")
def test_outputs_tag_of_trainer_left_to_trainer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = ManyLosses()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.log("train/accuracy", 0.125)
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    callback = TbxLightningCallback({**SET, "metrics": ["loss", *SET["metrics"]]})
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    run = pl.Trainer(
        default_root_dir=tmp_path, callbacks=[callback], max_steps=8, log_every_n_steps=2, accelerator="cpu", **options
    )
    with caplog.at_level(logging.WARNING):
        run.fit(Module(), loader())
    read = Run(callback.log_dir)
    assert {step: value for step, value in read.scalars["train/accuracy"] if step > 2} == dict.fromkeys(
        (4, 6, 8), 0.125
    )
    assert read.scalars["train/accuracy"][-1] == (8, 0.125)
    assert caplog.text.count("the trainer logs train/accuracy itself; metric train_accuracy is disabled") == 1
