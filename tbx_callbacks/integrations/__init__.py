"""Integrates the engine with the trainers: Hugging Face, Lightning and plain PyTorch loops.

Exports `Session`, which adapts any other trainer, and helpers that read its batches.
"""

from __future__ import annotations

from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.outputs import loss_in
from tbx_callbacks.integrations.batches import labels_in, samples_in, tokens_in
from tbx_callbacks.integrations.session import Session
from tbx_callbacks.rules.base import Action
from tbx_callbacks.runs.folders import RunLocation

__all__ = [
    "Action",
    "RunLocation",
    "Session",
    "TrainingInfo",
    "labels_in",
    "loss_in",
    "samples_in",
    "tokens_in",
]
