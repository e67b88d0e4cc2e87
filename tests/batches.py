"""Data that tests share; made without transformers, whose import takes longer than most trainings here."""

from __future__ import annotations

import random
from typing import Any

import torch


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
