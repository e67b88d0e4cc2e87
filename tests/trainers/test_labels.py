"""Tests accuracy in trainings that do not pass labels to the model, against the test's own counts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertLMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    default_data_collator,
)

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tests.helpers.data import collate
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run
from tests.helpers.variations import variations

SET: dict[str, Any] = {"every": 2, "metrics": ["outputs", "train_accuracy"]}
BATCH = 4


class Weighted(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels, weight=torch.tensor([1.0, 2.0]))
        return (loss, outputs) if return_outputs else loss


class Functional(Trainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, compute_loss_func=self.own, **kwargs)

    @staticmethod
    def own(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits, labels)


HF: dict[str, tuple[type[Trainer], dict[str, Any], dict[str, Any]]] = {
    "compute_loss that pops": (Weighted, {}, {}),
    "compute_loss_func": (Functional, {}, {}),
    "label smoothing": (Trainer, {"label_smoothing_factor": 0.1}, {}),
    "tuples": (Trainer, {}, {"return_dict": False}),
}


def shares(logits: list[Tensor], labels: list[Tensor], passes: int) -> dict[int, Any]:
    """The accuracy by due step, over its batches and those of the step before."""
    right = [(guess.argmax(-1) == truth).double().mean() for guess, truth in zip(logits, labels, strict=False)]
    return {
        step: pytest.approx(torch.stack(right[(step - 2) * passes : step * passes]).mean().item(), rel=1e-5)
        for step in (2, 4, 6, 8)
    }


def hf(
    folder: Path, variant: str, *, attached: bool = True, accumulate: int = 1
) -> tuple[TbxTrainerCallback, list[Tensor], list[Tensor]]:
    cls, options, config = HF[variant]
    model, logits, labels = bert(**config), [], []

    def collated(batch: Any) -> Any:
        together = collate(batch)
        labels.append(together["labels"].clone())
        return together

    def seen(module: nn.Module, args: Any, outputs: Any) -> None:
        given = outputs[1] if variant == "tuples" else outputs.logits
        logits.append(given.detach().clone())

    model.register_forward_hook(seen)
    callback = TbxTrainerCallback(SET)
    run = trainer(folder, model=model, cls=cls, callbacks=[callback], gradient_accumulation_steps=accumulate, **options)
    run.data_collator = collated
    if attached:
        callback.attach(run)
    run.train()
    return callback, logits, labels


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("variant", HF)
def test_huggingface_attached_accuracy_exact(
    tmp_path: Path, variant: str, accumulate: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        callback, logits, labels = hf(tmp_path, variant, accumulate=accumulate)
    assert Run(callback.log_dir).at("train/accuracy") == shares(logits, labels, accumulate)
    assert "train/accuracy is not written" not in caplog.text
    assert callback._session._engine.labels is None


def test_huggingface_not_attached_accuracy_warns_with_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        callback, _, _ = hf(tmp_path, "compute_loss that pops", attached=False)
    assert "train/accuracy" not in Run(callback.log_dir).scalars
    (printed,) = [record.getMessage() for record in caplog.records if "is not written" in record.getMessage()]
    assert printed == (
        "train/accuracy is not written: no labels of the batch were found; remedy: call callback.attach(trainer); it"
        " reads `labels` from the batch where the model does not get them"
    )


def test_huggingface_labels_used_for_one_pass(tmp_path: Path) -> None:
    class Twice(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            labels = inputs.pop("labels")
            loss = nn.functional.cross_entropy(model(**inputs).logits, labels)
            return loss + model(input_ids=inputs["input_ids"].flip(0)).logits.square().mean()

    model, first = bert(), []
    model.register_forward_hook(lambda m, a, outputs: first.append(outputs.logits.detach()))
    callback = TbxTrainerCallback(SET)
    run = trainer(tmp_path, model=model, cls=Twice, callbacks=[callback])
    callback.attach(run)
    labels: list[Tensor] = []
    run.data_collator = lambda batch: labels.append((made := collate(batch))["labels"].clone()) or made
    run.train()
    assert Run(callback.log_dir).at("train/accuracy") == shares(first[::2], labels, 1)


SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
IDS = torch.arange(1, 9)


def small_bert(cls: type, **config: Any) -> nn.Module:
    return cls(BertConfig(**SIZES, **config))  # type: ignore[no-any-return]


def t5() -> nn.Module:
    small = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**small, decoder_start_token_id=0))


OTHER_TASKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor], dict[str, Any]]] = {
    "language model": (lambda: small_bert(BertLMHeadModel, is_decoder=True), {"labels": IDS}, {}),
    "smoothed language model": (
        lambda: small_bert(BertLMHeadModel, is_decoder=True), {"labels": IDS}, {"label_smoothing_factor": 0.1},
    ),
    "masked language model": (lambda: small_bert(BertForMaskedLM), {"labels": IDS}, {}),
    "sequence to sequence": (t5, {"labels": IDS}, {}),
    "question answering": (
        lambda: small_bert(BertForQuestionAnswering), {"start_positions": IDS[0], "end_positions": IDS[1]}, {},
    ),
    "regression": (lambda: small_bert(BertForSequenceClassification, num_labels=1), {"labels": torch.tensor(0.5)}, {}),
    "multi-label": (
        lambda: small_bert(BertForSequenceClassification, num_labels=2), {"labels": torch.tensor([0.0, 1.0])}, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("attached", variations([False, True], True))
@pytest.mark.parametrize("task", OTHER_TASKS)
def test_huggingface_other_task_no_advice_about_labels(
    tmp_path: Path, task: str, attached: bool, caplog: pytest.LogCaptureFixture
) -> None:
    make, labels, options = OTHER_TASKS[task]
    callback = TbxTrainerCallback(SET)
    run = trainer(tmp_path, model=make(), callbacks=[callback], **options)
    run.data_collator = default_data_collator
    run.train_dataset = [{"input_ids": IDS, **labels} for _ in range(16)]
    if attached:
        callback.attach(run)
    with caplog.at_level(logging.WARNING, logger="tbx_callbacks"):
        run.train()
    assert "train/accuracy" not in Run(callback.log_dir).scalars
    (printed,) = [record.getMessage() for record in caplog.records if "train/accuracy" in record.getMessage()]
    assert "; remedy: remove train_accuracy from the set" in printed
    assert not {"attach", "labels", "`logits`"} & set(printed.replace("(", " ").split())


# -- Lightning -----------------------------------------------------------------------------------------------------


class RecordedOutputs(pl.LightningModule):
    """Records its logits and labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.enc(x).relu())
        self.logits.append(logits.detach().clone())
        return logits

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        self.labels.append(y)
        return nn.functional.cross_entropy(logits, y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ByForward(RecordedOutputs):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self(x), y)


class ByName(ByForward):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch["x"], batch.pop("target")), batch_idx)


class Returned(RecordedOutputs):
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        logits = self.forward(x)  # no hook sees this call
        loss = self.loss(logits, y)
        return {"loss": loss, "aux_loss": 2 * loss.detach(), "logits": logits.detach()}


class FeaturesOnly(RecordedOutputs):
    """A module whose forward pass returns features, and whose training_step returns loss and logits."""

    def forward(self, x: Tensor) -> Tensor:
        return self.enc(x).relu()

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        logits = self.head(self(x))
        self.logits.append(logits.detach().clone())
        loss = self.loss(logits, y)
        return {"loss": loss, "aux_loss": 2 * loss.detach(), "logits": logits.detach()}


class Silent(RecordedOutputs):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self.forward(x), y)


def by_name(batch: Any) -> dict[str, Tensor]:
    return {"x": torch.stack([x for x, _ in batch]), "target": torch.stack([y for _, y in batch])}


def fit(folder: Path, module: pl.LightningModule, *, accumulate: int = 1, collate_fn: Any = None) -> Run:
    torch.manual_seed(1)
    data = TensorDataset(torch.randn(64, 8), torch.randint(0, 3, (64,)))
    callback = TbxLightningCallback(SET, log_dir=folder)
    run = pl.Trainer(
        default_root_dir=folder,
        callbacks=[callback],
        max_steps=8,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    run.fit(module, DataLoader(data, batch_size=BATCH, collate_fn=collate_fn))
    return Run(callback.log_dir)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("make", [ByForward, ByName, Returned, FeaturesOnly])
@pytest.mark.filterwarnings("ignore")  # Lightning warns about settings that suit tests
def test_lightning_accuracy_exact(tmp_path: Path, make: type[RecordedOutputs], accumulate: int) -> None:
    module = make()
    read = fit(tmp_path, module, accumulate=accumulate, collate_fn=by_name if make is ByName else None)
    assert read.at("train/accuracy") == shares(module.logits, module.labels, accumulate)
    if make in (Returned, FeaturesOnly):
        losses = [nn.functional.cross_entropy(*pair) for pair in zip(module.logits, module.labels, strict=True)]
        since = torch.stack(losses[6 * accumulate : 8 * accumulate])
        assert read.at("train/aux_loss")[8] == pytest.approx(2 * since.mean().item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_lightning_unseen_logits_warns_with_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read = fit(tmp_path, Silent())
    assert "train/accuracy" not in read.scalars
    assert caplog.text.count("train/accuracy is not written: no outputs of the model were found; remedy: return {") == 1


# -- a loop --------------------------------------------------------------------------------------------------------


@dataclass
class Out:
    loss: Tensor
    aux_loss: Tensor
    logits: Tensor


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dataclass": lambda loss, logits: Out(loss, 2 * loss, logits),
    "dict": lambda loss, logits: {"loss": loss, "aux_loss": 2 * loss, "logits": logits},
    "tuple": lambda loss, logits: (loss, logits),
    "logits": lambda loss, logits: logits,
}


@pytest.mark.parametrize("form", FORMS)
def test_loop_accuracy_exact(tmp_path: Path, form: str) -> None:
    model, expected, losses = nn.Linear(8, 3), {}, {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, {**SET, "every": 1}, log_dir=tmp_path) as loop:
        for step in (1, 2, 3):
            y, logits = torch.randint(0, 3, (BATCH,)), model(torch.randn(BATCH, 8))
            loss = nn.functional.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, outputs=FORMS[form](loss, logits), labels=y)
            expected[step] = (logits.argmax(-1) == y).double().mean().item()
            losses[step] = pytest.approx(2 * loss.item(), rel=1e-5)
    read = Run(tmp_path)
    assert read.at("train/accuracy") == expected
    assert (
        (read.at("train/aux_loss") == losses) if form in ("dataclass", "dict") else "train/aux_loss" not in read.scalars
    )


class Padded(nn.Module):
    """A language model of 50 words with a head of 64 rows; only its configuration knows the number of words."""

    def __init__(self, *, configured: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(64 if configured else 50, 8), nn.Linear(8, 64)
        if configured:
            self.config = type("Config", (), {"vocab_size": 50})()

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def transformers_lm() -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertLMHeadModel(BertConfig(vocab_size=50, intermediate_size=32, is_decoder=True, **sizes))


@pytest.mark.parametrize("make", [transformers_lm, lambda: Padded(configured=True), lambda: Padded(configured=False)])
def test_language_model_no_accuracy(
    tmp_path: Path, make: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.WARNING), TbxLoop(model, optimizer, {**SET, "every": 1}, log_dir=tmp_path) as loop:
        for _ in range(2):
            ids = torch.randint(0, 50, (2, 6))
            outputs = model(ids)
            logits = outputs if isinstance(outputs, Tensor) else outputs.logits
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            loop.end_step(loss=loss, outputs={"logits": logits}, labels=ids)
    assert "train/accuracy" not in Run(tmp_path).scalars
    assert caplog.text.count("train/accuracy is not written: logits are over the vocabulary") == 1


@pytest.mark.parametrize(
    ("outputs", "labels", "why"),
    [
        (
            {"logits": torch.randn(4, 3)},
            torch.rand(4, 3),
            "labels [4, 3] of float32 are not class indices for logits [4, 3]",
        ),
        ({"logits": torch.randn(4, 3)}, None, "no labels of the batch were found; remedy: pass outputs=... and labels"),
        ({"scores": torch.randn(4, 3)}, torch.zeros(4).long(), "the model's outputs have no `logits`"),
        ((torch.randn(4, 6, 8), torch.randn(4, 8)), torch.zeros(4, 6).long(), "the model's outputs have no `logits`"),
        (None, None, "no outputs of the model were found; remedy: pass outputs=... and labels=... to end_step"),
    ],
)
def test_accuracy_impossible_warns_once(
    tmp_path: Path, outputs: Any, labels: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.WARNING), TbxLoop(model, optimizer, {**SET, "every": 1}, log_dir=tmp_path) as loop:
        for _ in range(3):
            model(torch.randn(4, 8)).sum().backward()
            optimizer.step()
            loop.end_step(outputs=outputs, labels=labels)
    assert "train/accuracy" not in Run(tmp_path).scalars
    assert caplog.text.count("train/accuracy is not written: ") == caplog.text.count(why) == 1
