"""Defines `TrainingInfo`, the facts that an integration passes to the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tbx_callbacks._config.schedule import Schedule
from tbx_callbacks._model.sharding.base import Sharding


def _always() -> bool:
    return True


@dataclass(frozen=True)
class TrainingInfo:
    """Facts about a training that an integration knows when it starts.

    Attributes:
        model: the model.
        optimizers: the optimizers, by name.
        log_schedule: the steps at which the trainer logs.
        clipping: `none`, `norm` or `other`.
        spreads_nonfinite: whether the trainer multiplies gradients by a factor computed from their norm, so that one
            NaN turns all of them into NaN.
        sharding: reads the model's elements (`find_sharding`); None means that no optimizer wraps others.
        unsupported_sharding: describes a sharding that metrics do not support, with a remedy, if only the integration
            knows it.
        hparams: hyper-parameters for the HParams tab.
        texts: texts to write, by name.
        larger_is_better: by tag, the trainer's own setting for evaluation metrics.
        earlier_logs: values by tag that a checkpoint restored from the earlier part of the run.
        scaler: the GradScaler of mixed precision.
        compiled: whether the trainer compiles the model.
        still_training: whether the training is still running. Hooks call it, and are removed if it is not, for trainers
            that do not report an exception.
        steps_per_epoch: optimizer steps in an epoch; None if the number is unknown.
        predictions_remedy: how users of this trainer can provide labels and logits.
    """

    model: nn.Module
    optimizers: Mapping[str, torch.optim.Optimizer]
    log_schedule: Schedule
    clipping: str = "none"
    spreads_nonfinite: bool = False
    sharding: Sharding | None = None
    unsupported_sharding: str | None = None
    hparams: Mapping[str, bool | float | str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    larger_is_better: Mapping[str, bool] = field(default_factory=dict)
    earlier_logs: Sequence[Mapping[str, float | str]] = ()
    scaler: Any = None
    compiled: bool = False
    still_training: Callable[[], bool] = _always
    steps_per_epoch: int | None = None
    predictions_remedy: str = "pass both to Engine.record_outputs"
