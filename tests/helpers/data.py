"""Builds data and metric sets that tests share, without transformers, whose import is slow."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch

from tbx_callbacks import Config, load_config

# Metrics that every trainer supports, however it shards its tensors.
COMMON: list[Any] = [
    "loss",
    "learning_rate",
    "clip",
    "throughput",
    "nonfinite",
    {"grad_norm": {"by": "total"}},
    {"grad_norm": {"by": "layer"}},
    {"grad_norm_clipped": {"by": "total"}},
    {"weight_norm": {"by": "parameter"}},
    {"update_norm": {"by": "layer"}},
    {"drift": {"by": "layer"}},
]
# Metrics that several ranks must write as one process does, every two steps.
SHARDED: dict[str, Any] = {
    "every": 2,
    "metrics": [
        *COMMON,
        {"grad_norm": {"by": "parameter"}},
        {"grad_norm_clipped": {"by": "layer"}},
        {"update_ratio": {"by": "layer"}},
        {"optimizer_state": {"by": "layer"}},
        "replicas",
        "replica_state",
        {"weight_histogram": {"every": 2}},
        {"grad_histogram": {"every": 2}},
        "activations",
    ],
}

# Every kind of metric that every trainer supports, every two steps.
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
# All metrics at every step, for tests that the callback does not change a training.
_FULL = load_config("full")
FULL = Config(tuple(replace(item, every=1) for item in _FULL.items), every=1)


def rows(number: int = 32, length: int = 8, seed: int = 0) -> list[dict[str, Any]]:
    """Token ids with padding of different lengths, and labels that depend on them."""
    rng = random.Random(seed)
    made = []
    for _ in range(number):
        real = rng.randint(3, length)
        ids = [rng.randint(1, 49) for _ in range(real)] + [0] * (length - real)
        mask = [1] * real + [0] * (length - real)
        made.append({"input_ids": ids, "attention_mask": mask, "labels": int(ids[0] > 25)})
    return made


def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {key: torch.tensor([row[key] for row in batch]) for key in batch[0]}


def sentences(number: int = 32) -> list[str]:
    rng = random.Random(0)
    words = ["a", "good", "bad", "film", "day", "it", "was", "not", "what"]
    return [" ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(number)]
