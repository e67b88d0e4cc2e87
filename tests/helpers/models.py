"""Builds small real models and trainers that tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from tests.helpers.data import collate, rows


def bert(seed: int = 0, **changes: Any) -> BertForSequenceClassification:
    """A real BERT classifier with 2 layers of width 16."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 16,
    }
    return BertForSequenceClassification(BertConfig(**{**sizes, **changes}))


def tokenizer() -> Any:
    """A WordPiece tokenizer trained on `sentences`, with an end-of-text token."""
    from datasets import Dataset
    from sentiment_model import train_vocabulary

    from tests.helpers.data import sentences

    made = train_vocabulary(Dataset.from_dict({"sentence": sentences()}), 100, cased=False)
    made.eos_token = "[SEP]"
    return made


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}


def trainer(
    folder: Path, *, model: nn.Module | None = None, cls: type[Trainer] = Trainer, callbacks: Any = (), **args: Any
) -> Trainer:
    """A real Trainer on the CPU with quiet defaults."""
    defaults: dict[str, Any] = {
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 1,
    }
    return cls(
        model=model if model is not None else bert(),
        args=TrainingArguments(str(folder), **{**defaults, **args}),
        train_dataset=rows(),
        eval_dataset=rows(16, seed=5),
        data_collator=collate,
        compute_metrics=accuracy,
        callbacks=list(callbacks),
    )
