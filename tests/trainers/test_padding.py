"""Tests padding under the trainers, against the rows of the batches that the model received."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, Trainer

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tests.helpers.data import sentences
from tests.helpers.models import bert, tokenizer, trainer
from tests.helpers.runs import Run
from tests.unit._engine.test_row_lengths import sorted_tokens

SET = {"every": 2, "metrics": ["padding", "loss"]}
LIMIT = 6


def texts() -> list[str]:
    """The beginnings of sentences, of different lengths."""
    return [" ".join(sentence.split()[: 1 + number % 7]) for number, sentence in enumerate(sentences()[:32])]


class Seen:
    """A model that keeps the lengths of the rows of each training batch."""

    def __init__(self) -> None:
        self.lengths: list[list[int]] = []
        self.widths: list[int] = []

    def watch(self, model: Any) -> Any:
        def keep(module: Any, args: Any, kwargs: Any) -> None:
            if module.training:
                self.lengths.append(kwargs["attention_mask"].sum(1).tolist())
                self.widths.append(kwargs["attention_mask"].shape[1])

        model.register_forward_pre_hook(keep, with_kwargs=True)
        return model

    def expected(self, batches: int) -> dict[str, dict[int, float]]:
        """The shares at every second step, each of so many batches."""
        found: dict[str, dict[int, float]] = {"share": {}, "savable": {}, "at_limit": {}}
        for number, start in enumerate(range(0, len(self.lengths), batches), 1):
            lengths, widths = self.lengths[start : start + batches], self.widths[start : start + batches]
            padded = sum(len(rows) * width for rows, width in zip(lengths, widths, strict=True))
            rows = [length for batch in lengths for length in batch]
            found["share"][2 * number] = 1 - sum(rows) / padded
            found["savable"][2 * number] = 1 - sorted_tokens(lengths) / padded
            found["at_limit"][2 * number] = sum(length >= LIMIT for length in rows) / len(rows)
        return found


def tokenized(made: Any, *, truncates: bool = True) -> Dataset:
    given = {"max_length": LIMIT} if truncates else {}
    columns = made(texts(), truncation=truncates, **given)
    return Dataset.from_dict({**columns, "labels": [number % 2 for number in range(32)]})


def model() -> Any:
    return bert(vocab_size=200, max_position_embeddings=64)


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_huggingface_padding_equals_batches(tmp_path: Path, attached: bool, accumulate: int) -> None:
    made, seen = tokenizer(), Seen()
    callback = TbxTrainerCallback(SET, log_dir=tmp_path / "run")
    run: Trainer = trainer(
        tmp_path,
        model=seen.watch(model()),
        max_steps=4,
        gradient_accumulation_steps=accumulate,
        eval_strategy="steps",
        eval_steps=1,
    )
    run.train_dataset = run.eval_dataset = tokenized(made)
    run.processing_class, run.data_collator = made, DataCollatorWithPadding(made)
    run.callback_handler.processing_class = made
    if attached:
        callback.attach(run)
    else:
        run.add_callback(callback)
    run.train()
    read = Run(tmp_path / "run")
    for name, values in seen.expected(2 * accumulate).items():
        assert read.at(f"padding/{name}") == pytest.approx(values), name
    assert 0 < read.at("padding/at_limit")[2] < 1


def test_huggingface_without_truncation_no_limit(tmp_path: Path) -> None:
    made = tokenizer()
    run = trainer(tmp_path, model=model(), max_steps=2)
    run.train_dataset = tokenized(made, truncates=False)
    run.processing_class, run.data_collator = made, DataCollatorWithPadding(made)
    run.callback_handler.processing_class = made
    TbxTrainerCallback(SET, log_dir=tmp_path / "run").attach(run)
    run.train()
    read = Run(tmp_path / "run")
    assert read.at("padding/share")[2] > 0
    assert "padding/at_limit" not in read.scalars


class Module(pl.LightningModule):
    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.net = seen.watch(model())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.net(**batch).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


def test_lightning_and_loop_padding_equals_batches(tmp_path: Path) -> None:
    made = tokenizer()
    collator = DataCollatorWithPadding(made)
    data = DataLoader(list(tokenized(made)), batch_size=4, collate_fn=collator)
    by_lightning, by_loop = Seen(), Seen()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pl.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_steps=4,
            callbacks=[TbxLightningCallback(SET, log_dir=tmp_path / "lightning")],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        run.fit(Module(by_lightning), data)
    net = by_loop.watch(model()).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    with TbxLoop(net, optimizer, SET, log_dir=tmp_path / "loop") as loop:
        for _, batch in zip(range(4), data, strict=False):
            loss = net(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=4, tokens=batch["attention_mask"])
    for name, seen in (("lightning", by_lightning), ("loop", by_loop)):
        read, values = Run(tmp_path / name), seen.expected(2)
        assert read.at("padding/share") == pytest.approx(values["share"]), name
        assert read.at("padding/savable") == pytest.approx(values["savable"]), name
        assert "padding/at_limit" not in read.scalars
