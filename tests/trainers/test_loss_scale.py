"""Tests the warning about a Trainer whose loss grows with the micro-batches, against the gradients themselves."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertForQuestionAnswering,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
)

from tbx_callbacks import TbxTrainerCallback
from tbx_callbacks.integrations.huggingface.loss_scale import nearest_factor
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer
from tests.helpers.variations import variations

Inputs = dict[str, Any]
STEPS = 4
SET = {"metrics": ["loss"]}


def small(cls: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return cls(bert(**none, **changes).config)


def llama() -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=16))


class Divided(Trainer):
    """Divides by itself, because it believes that nobody else does."""

    def compute_loss(self, model: Any, inputs: Inputs, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(**inputs)
        loss = outputs.loss / self.args.gradient_accumulation_steps if model.training else outputs.loss
        return (loss, outputs) if return_outputs else loss


class Weighted(Trainer):
    def compute_loss(self, model: Any, inputs: Inputs, return_outputs: bool = False, **_: Any) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels, weight=torch.tensor([2.0, 2.0]))
        return (loss, outputs) if return_outputs else loss


class SaysSo(Weighted):
    loss_is_scaled_for_ga = False


class Functional(Trainer):
    normalised = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, compute_loss_func=self.own, **kwargs)

    @classmethod
    def own(cls, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        if cls.normalised and num_items_in_batch is not None:
            return nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch
        return nn.functional.cross_entropy(outputs.logits, labels)


class FunctionalMean(Functional):
    normalised = False


def tokens(batch: Any) -> Inputs:
    made = collate(batch)
    return {**made, "labels": (made["input_ids"] % 2).masked_fill(made["attention_mask"] == 0, -100)}


def language(batch: Any) -> Inputs:
    made = collate(batch)
    return {**made, "labels": made["input_ids"].masked_fill(made["attention_mask"] == 0, -100)}


def spans(batch: Any) -> Inputs:
    made = collate(batch)
    made.pop("labels")
    start = torch.zeros(len(batch), dtype=torch.long)
    return {**made, "start_positions": start, "end_positions": start + 1}


def regression(batch: Any) -> Inputs:
    made = collate(batch)
    return {**made, "labels": made["labels"].float()}


class Named(nn.Module):
    """Takes no `**kwargs`, so the Trainer divides."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = small(type(bert()))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


class Taught(nn.Module):
    """Takes `**kwargs`, but says that it does not use them."""

    accepts_loss_kwargs = False

    def __init__(self) -> None:
        super().__init__()
        self.bert = small(type(bert()))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **kwargs: Any) -> Any:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


Case = tuple[Any, type[Trainer], Any, dict[str, Any]]
CASES: dict[str, Case] = {
    "classifier": (lambda: small(type(bert())), Trainer, collate, {}),
    "regression": (lambda: small(type(bert()), num_labels=1), Trainer, regression, {}),
    "token classifier": (lambda: small(BertForTokenClassification), Trainer, tokens, {}),
    "spans": (lambda: small(BertForQuestionAnswering), Trainer, spans, {}),
    "language model": (llama, Trainer, language, {}),
    "named arguments": (Named, Trainer, collate, {}),
    "accepts nothing": (Taught, Trainer, collate, {}),
    "divides itself": (lambda: small(type(bert())), Divided, collate, {}),
    "own loss": (lambda: small(type(bert())), Weighted, collate, {}),
    "function": (lambda: small(type(bert())), Functional, collate, {}),
    "function of a mean": (lambda: small(type(bert())), FunctionalMean, collate, {}),
    "label smoothing": (lambda: small(type(bert())), Trainer, collate, {"label_smoothing_factor": 0.1}),
    "label smoothing of tokens": (
        lambda: small(BertForTokenClassification),
        Trainer,
        tokens,
        {"label_smoothing_factor": 0.1},
    ),
}
if "loss_is_scaled_for_ga" in vars(Trainer):
    CASES["own loss that says so"] = (lambda: small(type(bert())), SaysSo, collate, {})
UNSEEN = {"own loss", "function of a mean"}  # not attached, the model returns no loss to compare


def gradient_norm(case: Case, folder: Path, callback: Any, *, accumulate: int, attached: bool = False) -> float:
    """The norm of the first step's gradient, as the Trainer logs it; one step takes the same 8 rows."""
    make, cls, collator, args = case
    model = make()
    args = {"max_steps": 2, "logging_steps": 1, "max_grad_norm": 0.0, **args}
    args |= {"per_device_train_batch_size": 8 // accumulate, "gradient_accumulation_steps": accumulate}
    args |= {"remove_unused_columns": False, "learning_rate": 0.0}
    run = trainer(folder, model=model, cls=cls, callbacks=[] if callback is None else [callback], **args)
    equal = [row for row in rows(200) if sum(row["attention_mask"]) == 6][:8]
    run.train_dataset, run.data_collator = equal, collator
    if attached:
        callback.attach(run)
    run.train()
    return float(run.state.log_history[0]["grad_norm"])


@pytest.mark.slow
@pytest.mark.parametrize("name", variations(CASES, "classifier", "language model", "own loss", "label smoothing"))
def test_huggingface_loss_that_grows_warned(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    case, accumulate = CASES[name], 4
    whole = gradient_norm(case, tmp_path / "whole", None, accumulate=1)
    for attached in (True, False):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            callback = TbxTrainerCallback(SET)
            norm = gradient_norm(case, tmp_path / str(attached), callback, accumulate=accumulate, attached=attached)
        factor = round(norm / whole)
        printed = [record.getMessage() for record in caplog.records if "too large" in record.getMessage()]
        if factor == 1 or (not attached and name in UNSEEN):
            assert printed == [], (attached, factor)
        else:
            (line,) = printed
            assert line.startswith(f"train/loss and gradients are {factor} times too large: "), attached
            assert len(line.split()) <= 25
            remedy = "compute_loss_func" if name.startswith("function") else "model.accepts_loss_kwargs = False"
            assert remedy in line


def test_huggingface_attach_restores_compute_loss(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(SET)
    run = trainer(tmp_path, callbacks=[callback], gradient_accumulation_steps=2)
    own = run.compute_loss
    callback.attach(run)
    assert inspect.signature(run.compute_loss) == inspect.signature(own)
    run.train()
    assert "compute_loss" not in vars(run)


def test_nearest_factor_of_ratio_found() -> None:
    assert [nearest_factor(ratio, 4, 1) for ratio in (0.9, 1.2, 3.5, 4.6)] == [1, 1, 4, 4]
    assert [nearest_factor(ratio, 4, 2) for ratio in (1.1, 1.9, 4.2, 7.5)] == [1, 2, 4, 8]
    assert nearest_factor(float("nan"), 4, 1) == nearest_factor(-1.0, 4, 1) == 1
