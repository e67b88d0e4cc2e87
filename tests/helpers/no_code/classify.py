"""Fine-tunes a small BERT with the Hugging Face Trainer; all options come from the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)


@dataclass
class ModelArguments:
    """Sizes of the model."""

    layers: int = field(default=2)


class Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Token ids, and labels that depend on the first one."""

    def __init__(self, number: int, seed: int) -> None:
        self.ids = torch.randint(1, 50, (number, 8), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index], "labels": int(self.ids[index, 0] > 25)}


def train(callbacks: Any = None, prepare: Any = None) -> Trainer:
    """Trains; only the twin of this script passes callbacks, or does anything to the trainer before."""
    sizes, args = HfArgumentParser((ModelArguments, TrainingArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=sizes.layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=args,
        train_dataset=Pairs(32, seed=1),
        eval_dataset=Pairs(16, seed=2),
        callbacks=callbacks,
    )
    if prepare is not None:
        prepare(trainer)
    trainer.train()
    trainer.evaluate()
    return trainer


if __name__ == "__main__":
    train()
