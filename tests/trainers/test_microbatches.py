"""Tests that the Hugging Face callback counts each micro-batch once, attached or not, by the trainer's own samples."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification, Trainer

from tbx_callbacks import TbxLightningCallback, TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run
from tests.helpers.variations import variations

SET: dict[str, Any] = {
    "every": 1,
    "metrics": ["loss", "throughput", "nonfinite"],
    "axis": ["step", "samples", "tokens"],
}
Inputs = dict[str, Any]


def counts(folder: Any) -> tuple[list[float], list[float]]:
    """Samples and tokens of each step, from the rates and the seconds of a step."""
    read = Run(folder)
    seconds = read.at("perf/step_s")
    found = []
    for tag in ("perf/samples_per_s", "perf/tokens_per_s"):
        rates = read.at(tag) if tag in read.scalars else {}
        found.append([round(rate * seconds[step], 2) for step, rate in rates.items()])
    return found[0], found[1]


class Plain(Trainer):
    pass


class Twice(Trainer):
    """Two passes on the same inputs, as in R-Drop."""

    def compute_loss(self, model: Any, inputs: Inputs, return_outputs: bool = False, **_: Any) -> Any:
        first, second = model(**inputs), model(**inputs)
        loss = (first.loss + second.loss) / 2 + (first.logits - second.logits).square().mean()
        return (loss, first) if return_outputs else loss


class Pairs(Trainer):
    """Passes on two different texts."""

    def compute_loss(self, model: Any, inputs: Inputs, return_outputs: bool = False, **_: Any) -> Any:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        other = model(input_ids=ids.flip(0), attention_mask=mask.flip(0))
        first = model(**inputs)
        loss = first.loss + other.logits.square().mean()
        return (loss, first) if return_outputs else loss


class Generates(Trainer):
    """Passes without gradients come first, as in generation, and a teacher's."""

    def compute_loss(self, model: Any, inputs: Inputs, return_outputs: bool = False, **_: Any) -> Any:
        with torch.no_grad():
            for length in range(1, 4):
                model(input_ids=inputs["input_ids"][:, :length], attention_mask=inputs["attention_mask"][:, :length])
            teacher = model(**inputs).logits
        outputs = model(**inputs)
        loss = outputs.loss + (outputs.logits - teacher).square().mean()
        return (loss, outputs) if return_outputs else loss


class Recomputes(Trainer):
    """The whole forward pass runs again in the backward pass."""

    def compute_loss(self, model: Any, inputs: Inputs, return_outputs: bool = False, **_: Any) -> Any:
        def run(ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
            return model(input_ids=ids, attention_mask=mask, labels=labels).loss

        weight = torch.ones((), requires_grad=True)
        ids, mask, labels = (inputs[name] for name in ("input_ids", "attention_mask", "labels"))
        loss = checkpoint(run, ids, mask, labels, use_reentrant=False) * weight
        return (loss, {"loss": loss}) if return_outputs else loss


class Changes(Trainer):
    """Takes the batch apart."""

    def compute_loss(self, model: Any, inputs: Inputs, return_outputs: bool = False, **_: Any) -> Any:
        taken = {name: inputs.pop(name) for name in list(inputs)}
        outputs = model(**taken)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


VARIANTS: dict[str, tuple[type[Trainer], dict[str, Any]]] = {
    "plain": (Plain, {}),
    "same inputs twice": (Twice, {}),
    "generation and teacher": (Generates, {}),
    "whole model recomputed": (Recomputes, {}),
    "layers recomputed": (Plain, {}),
    "batch taken apart": (Changes, {}),
    "label smoothing": (Plain, {"label_smoothing_factor": 0.1}),
}


@pytest.mark.parametrize("attached", variations([True, False], True))
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")  # the name in all versions
def test_huggingface_microbatch_counted_once(tmp_path: Path, variant: str, accumulate: int, attached: bool) -> None:
    cls, args = VARIANTS[variant]
    callback, batches = TbxTrainerCallback(SET), []
    args = {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": accumulate, **args}
    run = trainer(tmp_path, cls=cls, callbacks=[callback], **args)
    run.train_dataset = rows(30)  # the last batch of an epoch has two samples, the last window fewer batches

    def collated(batch: Any) -> Any:
        batches.append((len(batch), sum(sum(row["attention_mask"]) for row in batch)))
        return collate(batch)

    run.data_collator = collated
    if variant == "layers recomputed":
        run.model.gradient_checkpointing_enable({"use_reentrant": False})
    if attached:
        callback.attach(run)
    run.train()
    assert len(batches) == 16
    per_epoch = [batches[start : start + 8] for start in (0, 8)]
    windows = [epoch[i : i + accumulate] for epoch in per_epoch for i in range(0, 8, accumulate)]
    samples, tokens = counts(callback.log_dir)
    assert samples == [sum(number for number, _ in window) for window in windows]
    assert tokens == [sum(number for _, number in window) for window in windows]
    summary = run.state.log_history[-1]
    oracle = summary["train_samples_per_second"] * summary["train_runtime"]
    assert sum(samples) == pytest.approx(oracle, rel=0.02)
    positions = Run(Path(callback.log_dir or "") / "by_samples").steps("train/loss")
    assert positions[-1] == 60


def test_huggingface_pairs_count_tokens_of_both(tmp_path: Path) -> None:
    found = {}
    for attached in (True, False):
        callback = TbxTrainerCallback(SET)
        run = trainer(tmp_path / str(attached), cls=Pairs, callbacks=[callback])
        if attached:
            callback.attach(run)
        run.train()
        found[attached] = counts(callback.log_dir)
    assert found[True][0] == found[False][0] == [4.0] * 8
    assert found[False][1] == [2 * tokens for tokens in found[True][1]]  # not attached, the passes are all it knows


class Rows(Trainer):
    """Gets rows, not tensors."""

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(**collate(inputs))
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class Holder:
    def __init__(self, batch: Inputs) -> None:
        self.parts = batch

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __getitem__(self, name: Any) -> Any:
        raise RuntimeError("no elements")


class Objects(Rows):
    def _get_num_items_in_batch(self, *_: Any) -> None:
        return None

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(**inputs.parts)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class Odd:
    """Holds nothing that can be counted."""

    def __init__(self, batch: Any) -> None:
        self.rows = lambda: batch


class Uncountable(Objects):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        outputs = model(**collate(inputs.rows()))
        return (outputs.loss, outputs) if return_outputs else outputs.loss


@pytest.mark.skipif(Version(transformers.__version__) < Version("5"), reason="older Trainers read the batch themselves")
@pytest.mark.parametrize(
    ("cls", "collator", "counted"),
    [
        (Rows, list, True),
        (Objects, lambda batch: Holder(collate(batch)), True),
        (Uncountable, Odd, False),
    ],
)
def test_huggingface_attached_any_batch_trains(
    tmp_path: Path, cls: type[Trainer], collator: Any, counted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TbxTrainerCallback(SET)
    run = trainer(tmp_path, cls=cls, callbacks=[callback], remove_unused_columns=False)
    run.data_collator = collator
    callback.attach(run)
    run.train()
    samples, _ = counts(callback.log_dir)
    assert samples == ([4.0] * 8 if counted else [])
    assert len(Run(callback.log_dir).at("perf/step_s")) == 8
    printed = [record.getMessage() for record in caplog.records if "samples_per_s" in record.getMessage()]
    expected = "perf/samples_per_s is left out: a batch (Odd) has no known size; use a mapping of tensors"
    assert printed == ([] if counted else [expected])


class Packs(BertForSequenceClassification):
    """Takes one row of several sequences."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, labels: Tensor | None = None) -> Any:
        return super().forward(input_ids=input_ids, labels=labels[:1] if labels is not None else None)


def packed(batch: Any, *, positions: bool) -> Inputs:
    ids = [row["input_ids"][: sum(row["attention_mask"])] for row in batch]
    made = {
        "input_ids": torch.tensor([[token for row in ids for token in row]])[:, :16],
        "labels": torch.tensor([row["labels"] for row in batch]),
    }
    if positions:
        made["position_ids"] = torch.tensor([[place for row in ids for place in range(len(row))]])[:, :16]
    return made


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("positions", [True, False])
def test_huggingface_packed_batch_counted_by_boundaries(
    tmp_path: Path, positions: bool, attached: bool, caplog: pytest.LogCaptureFixture
) -> None:
    callback, batches = TbxTrainerCallback(SET), []

    def collator(batch: Any) -> Inputs:
        batches.append(packed(batch, positions=positions))
        return batches[-1]

    torch.manual_seed(0)
    args = {"per_device_train_batch_size": 2, "remove_unused_columns": False}
    run = trainer(tmp_path, model=Packs(bert().config), callbacks=[callback], **args)
    run.train_dataset, run.data_collator = rows(16, length=6), collator
    if attached:
        callback.attach(run)
    run.train()
    samples, tokens = counts(callback.log_dir)
    assert tokens == [batch["input_ids"].numel() for batch in batches[:8]]
    assert samples == ([2.0] * 8 if positions else [])
    assert ("perf/samples_per_s is left out" in caplog.text) is not positions


def test_huggingface_more_rows_than_samples_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def doubled(batch: Any) -> Inputs:
        return collate([*batch, *batch])  # as a trainer of preferences does

    for attached in (True, False):
        caplog.clear()
        callback = TbxTrainerCallback(SET)
        args = {"max_steps": -1, "num_train_epochs": 1}
        run = trainer(tmp_path / str(attached), callbacks=[callback], **args)
        run.train_dataset, run.data_collator = rows(18), doubled
        if attached:
            callback.attach(run)
        run.train()
        samples, tokens = counts(callback.log_dir)
        assert (samples, len(tokens)) == ([], 5)
        assert caplog.text.count("perf/samples_per_s is left out") == 1


def test_huggingface_own_dataloader_size_counted(tmp_path: Path) -> None:
    class Own(Trainer):
        def get_train_dataloader(self) -> Any:
            return DataLoader(rows(32), batch_size=8, collate_fn=collate)

    for attached in (True, False):
        callback = TbxTrainerCallback(SET)
        run = trainer(tmp_path / str(attached), cls=Own, callbacks=[callback], max_steps=4)
        if attached:
            callback.attach(run)
        run.train()
        assert counts(callback.log_dir)[0] == [8.0] * 4


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("attached", variations([True, False], True))
def test_huggingface_smaller_batches_found_counted_once(tmp_path: Path, attached: bool) -> None:
    failed = []

    class OutOfMemory(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if len(inputs["labels"]) > 4 and self.state.global_step == 1:
                failed.append(True)
                raise RuntimeError("CUDA out of memory.")
            return super().compute_loss(model, inputs, *args, **kwargs)

    callback = TbxTrainerCallback(SET)
    args = {"auto_find_batch_size": True, "per_device_train_batch_size": 8, "max_steps": 3}
    run = trainer(tmp_path, cls=OutOfMemory, callbacks=[callback], **args)
    if attached:
        callback.attach(run)
    run.train()
    samples, _ = counts(callback.log_dir)
    size = run.state.train_batch_size
    assert failed
    assert samples[-3:] == [size] * 3


class NanOnce(nn.Module):
    """Its second of two passes has a NaN loss in one micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.bert, self.calls = bert(), 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        outputs = self.bert(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        self.calls += 1
        if self.calls == 6:
            outputs.loss = outputs.loss + (math.nan - outputs.loss.detach())
        return outputs


def test_huggingface_nan_in_any_pass_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = TbxTrainerCallback(SET)
    args = {"gradient_accumulation_steps": 2, "max_steps": 4, "max_grad_norm": 0.0}
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, cls=Twice, model=NanOnce(), callbacks=[callback], **args).train()
    assert list(Run(callback.log_dir).at("nonfinite/losses").values()) == [0, 1, 0, 0]


class Unreadable(dict[str, Any]):
    """Looking for a label in it fails."""

    def __contains__(self, name: object) -> bool:
        raise RuntimeError("no names")


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch.rows()[0] if isinstance(batch, Odd) else batch.pop(0) if isinstance(batch, list) else batch["x"]
        return self.net(x).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch


@pytest.mark.parametrize(
    ("collator", "counted"),
    [
        (lambda batch: [torch.stack(batch), torch.zeros(len(batch), 1)], True),
        (lambda batch: {"x": torch.stack(batch), "text": ["a"] * len(batch)}, True),
        (lambda batch: Unreadable(x=torch.stack(batch)), False),
        (lambda batch: Odd([torch.stack(batch)]), False),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_lightning_any_batch_trains(
    tmp_path: Path, collator: Any, counted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TbxLightningCallback({**SET, "metrics": [*SET["metrics"], "train_accuracy"]}, log_dir=tmp_path)
    run = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=2,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    run.fit(Module(), DataLoader(list(torch.randn(18, 3)), batch_size=4, collate_fn=collator))
    samples, tokens = counts(tmp_path)
    assert samples == ([8.0, 8.0, 2.0] * 2 if counted else [])
    assert tokens == []
    assert caplog.text.count("perf/samples_per_s is left out") == (not counted)
