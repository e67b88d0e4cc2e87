"""What an adapter tells the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tbx_callbacks._config.schedule import Schedule
from tbx_callbacks._model.sharding.deepspeed import DeepSpeedSharding


def _always() -> bool:
    return True


@dataclass(frozen=True)
class TrainingInfo:
    """What an adapter knows when training starts.

    `log_schedule` names the steps at which the trainer logs. `clipping` is `none`, `norm` or `other`;
    `spreads_nonfinite` says whether gradients are multiplied by a factor made of their norm. `sharding` says in words
    how parameters are spread over ranks, if they are. `larger_is_better` has the trainer's own word on evaluation
    metrics, by tag. `earlier_logs` are numbers by tag of the part of the run that a checkpoint brought along.
    `scaler` is the GradScaler of mixed precision. `compiled` says that the trainer compiles the model. `deepspeed` is
    DeepSpeed's optimizer, if it is ZeRO's. `predictions_remedy` says how users of this trainer can show the labels and
    logits of their batches. `trains` says whether the training is still on, where a trainer does not tell of its end by
    an exception: asked in hooks, which are removed when it is not.
    """

    model: nn.Module
    optimizers: Mapping[str, torch.optim.Optimizer]
    log_schedule: Schedule
    clipping: str = "none"
    spreads_nonfinite: bool = False
    sharding: str | None = None
    hparams: Mapping[str, bool | float | str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    larger_is_better: Mapping[str, bool] = field(default_factory=dict)
    earlier_logs: Sequence[Mapping[str, float | str]] = ()
    scaler: Any = None
    compiled: bool = False
    deepspeed: DeepSpeedSharding | None = None
    still_training: Callable[[], bool] = _always
    predictions_remedy: str = "give both to Monitor.outputs"
