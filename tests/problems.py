"""Small real models, data and runs that tests share, and the way back from event files to numbers."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batches import COMMON, collate, rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from tbx_callbacks._config.metric_set import Config, load_config

__all__ = [
    "EVERY_KIND",
    "FULL",
    "SHARED",
    "Run",
    "accuracy",
    "bert",
    "collate",
    "files",
    "rows",
    "sentences",
    "tokenizer",
    "trainer",
]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# Every kind of metric that every trainer can know, every two steps.
EVERY_KIND = {
    "every": 2,
    "metrics": [
        *COMMON,
        "hparams",
        {"weight_norm": {"by": "layer"}},
        {"weight_histogram": {"every": 4}},
        {"update_ratio": {"by": "total"}},
    ],
}


# Everything there is, at every step: what the runs that must not be harmed are watched with.
_FULL = load_config("full")
FULL = Config(tuple(replace(item, every=1) for item in _FULL.items), every=1)


def bert(seed: int = 0, **changes: Any) -> BertForSequenceClassification:
    """A real BERT classifier with 2 layers of 16."""
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
    """A WordPiece tokenizer of the words of `sentences`, with an end of text, trained here."""
    from datasets import Dataset
    from sentiment_model import train_vocabulary

    made = train_vocabulary(Dataset.from_dict({"sentence": sentences()}), 100, cased=False)
    made.eos_token = "[SEP]"
    return made


def sentences(number: int = 32) -> list[str]:
    rng = random.Random(0)
    words = ["a", "good", "bad", "film", "day", "it", "was", "not", "what"]
    return [" ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(number)]


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


class Run:
    """A folder of event files as TensorBoard's own reader sees it."""

    def __init__(self, folder: str | Path | None) -> None:
        assert folder is not None
        self.folder = Path(folder)
        everything = {"scalars": 0, "histograms": 0, "tensors": 0, "images": 0}
        self._events = EventAccumulator(str(folder), size_guidance=everything)
        self._events.Reload()
        tags = self._events.Tags()
        self.scalars: dict[str, list[tuple[int, float]]] = {
            tag: [(event.step, event.value) for event in self._events.Scalars(tag)] for tag in tags["scalars"]
        }
        self.histograms = {
            tag: {event.step: event.histogram_value for event in self._events.Histograms(tag)}
            for tag in tags["histograms"]
        }
        self.texts = {
            tag.removesuffix("/text_summary"): [
                event.tensor_proto.string_val[0].decode() for event in self._events.Tensors(tag)
            ]
            for tag in tags["tensors"]
            if tag.endswith("/text_summary")
        }

    def steps(self, tag: str) -> list[int]:
        return [step for step, _ in self.scalars[tag]]

    def at(self, tag: str) -> dict[int, float]:
        return dict(self.scalars[tag])

    def family(self, prefix: str) -> set[str]:
        return {tag.removeprefix(f"{prefix}/") for tag in self.scalars if tag.startswith(f"{prefix}/")}

    def plugin(self, name: str) -> dict[str, bytes]:
        return self._events.PluginTagToContent(name)


def module_at(file: Path) -> Any:
    """A Python file that lies outside of all packages, imported."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files(folder: str | Path | None) -> list[Path]:
    assert folder is not None
    return sorted(Path(folder).glob("*tfevents*"))
