"""Defines `TrainingInfo`, the facts that an integration passes to the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tbx_callbacks._config.schedule import every, guarded
from tbx_callbacks._model.optimizers import KnownOptimizers, named_optimizers, optimizer_list, scaler_of
from tbx_callbacks._model.sharding import find_sharding
from tbx_callbacks._model.sharding.base import Sharding
from tbx_callbacks.metrics.hparam_values import HParamValue, plain_hparams

_CLIPPING = ("none", "norm", "other")


def _always() -> bool:
    return True


@dataclass(frozen=True)
class TrainingInfo:
    """Facts about a training that an integration knows when it starts.

    Attributes:
        model: the model, wrapped (DDP, compiled, prepared by Accelerate or Fabric) or not.
        optimizers: one optimizer, several, or several by name, in the wrappers of a trainer or not. Read it as a
            mapping by name to torch's optimizers.
        log_schedule: the steps at which the trainer logs: an interval in steps, or a function `step -> bool` of the
            step alone, which can be pickled. Read it as a function.
        log_option: the trainer's name of the interval in `log_schedule`, for messages.
        clipping: `none`, `norm` or `other` (by value, or in an unknown way).
        spreads_nonfinite: whether the trainer multiplies gradients by a factor computed from their norm, so that one
            NaN turns all of them into NaN. Always so with clipping by norm.
        sharding: reads the model's elements. Default: found in the model and the optimizers.
        unsupported_sharding: describes a sharding that metrics do not support, with a remedy, if only the integration
            knows it.
        hparams: hyper-parameters for the HParams tab, of any type. Read them as numbers, booleans and texts. The
            optimizer, its rate and its weight decay are added.
        texts: texts to write, by name.
        larger_is_better: by tag, the trainer's own setting for evaluation metrics.
        earlier_logs: values by tag that a checkpoint restored from the earlier part of the run.
        scaler: the GradScaler of mixed precision. Default: found in Accelerate's optimizers.
        compiled: whether the trainer compiles the model.
        still_training: whether the training is still running. Hooks call it, and are removed if it is not, for trainers
            that do not report an exception.
        steps_per_epoch: optimizer steps in an epoch; None if the number is unknown.
        logs_elsewhere: whether the trainer may log at other steps than `log_schedule` gives.
        may_clip: whether `clipping` is only assumed to be `none`. Gradients that change between the backward pass and
            the step are then taken for clipped ones.
        clip_remedy: how users of this trainer can provide the gradients before clipping.
        last_step: number of the last step; None if it is unknown. Histograms have a point there.
        ends_with_last_weights: whether the model has the weights of the last step when the training ends, and not
            those of a better checkpoint.
        predictions_remedy: how users of this trainer can provide labels and logits.
        evaluates_in_loop: whether the user's own code sets the mode of the model for evaluations.
        tokenizer: the trainer's tokenizer, for the texts of rows; None if it is not known.
        length_limit: the length in tokens at which the trainer's tokenizer cuts texts; None if it is unknown.
        foreign_losses: why the losses of the micro-batches are not those of the training, with a remedy; empty if they
            are.
        unknown_token: the id of the token for unknown words, of the trainer's tokenizer.

    Raises:
        TypeError: an optimizer is not one of torch, or `log_schedule` has another type.
        ValueError: there is no optimizer, the interval is below 1, or the kind of clipping is unknown.
    """

    model: nn.Module
    optimizers: Any
    log_schedule: Any
    clipping: str = "none"
    spreads_nonfinite: bool = False
    sharding: Sharding | None = None
    unsupported_sharding: str | None = None
    hparams: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    larger_is_better: Mapping[str, bool] = field(default_factory=dict)
    earlier_logs: Sequence[Mapping[str, float | str]] = ()
    scaler: Any = None
    compiled: bool = False
    still_training: Callable[[], bool] = _always
    steps_per_epoch: int | None = None
    logs_elsewhere: bool = False
    may_clip: bool = False
    clip_remedy: str = "call before_clip before clipping"
    last_step: int | None = None
    ends_with_last_weights: bool = True
    predictions_remedy: str = "pass both to Session.record_outputs"
    unknown_token: int | None = None
    length_limit: int | None = None
    foreign_losses: str = ""
    evaluates_in_loop: bool = False
    tokenizer: Any = None
    log_option: str = "log_schedule"

    def __post_init__(self) -> None:
        if self.clipping not in _CLIPPING:
            raise ValueError(
                f"clipping must be one of {', '.join(_CLIPPING)}, got {self.clipping!r}; pass other if unsure"
            )
        if not isinstance(self.log_schedule, int) and not callable(self.log_schedule):
            kind = type(self.log_schedule).__name__
            raise TypeError(
                f"log_schedule must be a number of steps or a function of them, got {kind}; pass the logging interval"
            )
        if isinstance(self.log_schedule, int) and self.log_schedule < 1:
            raise ValueError(
                f"log_schedule must be at least 1 step, got {self.log_schedule}; pass the logging interval"
            )
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(
                f"steps_per_epoch must be at least 1, got {self.steps_per_epoch}; leave it out if it is unknown"
            )
        wrapped, interval = self.optimizers, self.log_schedule
        complete = {
            "optimizers": KnownOptimizers(named_optimizers(wrapped)),
            "log_schedule": every(interval) if isinstance(interval, int) else guarded(interval),
            "spreads_nonfinite": self.spreads_nonfinite or self.clipping == "norm",
            "sharding": self.sharding or find_sharding(self.model, next(iter(optimizer_list(wrapped)), None)),
            "hparams": {**_optimizer_hparams(named_optimizers(wrapped)), **plain_hparams(self.hparams)},
            "scaler": scaler_of(wrapped) if self.scaler is None else self.scaler,
        }
        for name, value in complete.items():
            object.__setattr__(self, name, value)


def _optimizer_hparams(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, HParamValue]:
    """The class of each optimizer, and the options of its first group; with the optimizer's name if there are several.

    A scheduler with a warm-up begins with another rate, and stores the optimizer's own as `initial_lr`.
    """
    found: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        suffix = f"/{name}" if len(optimizers) > 1 else ""
        group = optimizer.param_groups[0] if optimizer.param_groups else {}
        options = {"learning_rate": group.get("initial_lr", group.get("lr")), "weight_decay": group.get("weight_decay")}
        found[f"optimizer{suffix}"] = type(optimizer).__name__
        found.update({f"{key}{suffix}": value for key, value in options.items() if value is not None})
    return plain_hparams(found)
