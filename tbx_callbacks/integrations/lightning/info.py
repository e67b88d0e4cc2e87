"""Builds a `TrainingInfo` from Lightning's Trainer and module. Uses public attributes only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tbx_callbacks._config.cadence import Cadence
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.amp import scale_of
from tbx_callbacks._model.optimizers import changes_gradients_itself
from tbx_callbacks._model.sharding import find_sharding
from tbx_callbacks._model.sharding.torch_sharding import TorchSharding
from tbx_callbacks.integrations.lightning.batch_outputs import REMEDY
from tbx_callbacks.integrations.lightning.logger import Listener
from tbx_callbacks.metrics.hparam_values import HParamValue, plain_hparams

# Runs on CUDA only, and is untested.
_DEEPSPEED = "Lightning's DeepSpeedStrategy (remedy: the Hugging Face Trainer, or a loop with TbxLoop)"


def training_info(
    trainer: Any, pl_module: Any, logged_hparams: Mapping[str, HParamValue], every: Cadence
) -> TrainingInfo:
    """Describes the training that begins, for the engine.

    Args:
        trainer: the Trainer.
        pl_module: the module.
        logged_hparams: hyper-parameters that were passed to the Trainer's loggers.
        every: cadence of the metric set.
    """
    sharding = find_sharding(pl_module, next(iter(trainer.optimizers), None))
    return TrainingInfo(
        model=wrapped_model(pl_module),
        optimizers=trainer.optimizers,
        log_schedule=log_interval(trainer, every),
        log_option="every" if isinstance(every, int) and not has_logger(trainer) else "log_every_n_steps",
        last_step=last_step(trainer, pl_module),
        clipping=clipping(trainer, pl_module),
        sharding=sharding,
        unsupported_sharding=None if isinstance(sharding, TorchSharding) else _DEEPSPEED,
        hparams={**logged_hparams, **hparams(trainer, pl_module)},
        texts=texts(pl_module),
        scaler=scaler(trainer),
        steps_per_epoch=steps_per_epoch(trainer, pl_module),
        clip_remedy="use self.manual_backward(loss)",
        predictions_remedy=REMEDY,
        tokenizer=getattr(pl_module, "tokenizer", None)
        or getattr(getattr(trainer, "datamodule", None), "tokenizer", None),
    )


def wrapped_model(pl_module: nn.Module) -> nn.Module:
    """The model inside the LightningModule if it is the only child with parameters: names then match other trainers."""
    children = [child for child in pl_module.children() if next(child.parameters(), None) is not None]
    direct_parameters = list(pl_module.parameters(recurse=False))
    return children[0] if len(children) == 1 and not direct_parameters else pl_module


def clipping(trainer: Any, pl_module: Any) -> str:
    """`none`, `norm` or `other`: how the Trainer or the module changes gradients before the step."""
    if not pl_module.automatic_optimization:
        return "other"  # the module may do anything
    overridden = type(pl_module).configure_gradient_clipping.__module__.split(".")[0] not in (
        "lightning",
        "pytorch_lightning",
    )
    if overridden:
        return "other"
    if not trainer.gradient_clip_val:
        return "none"
    algorithm = getattr(trainer.gradient_clip_algorithm, "value", trainer.gradient_clip_algorithm)
    return "other" if algorithm == "value" else "norm"


def epoch(trainer: Any, batch_idx: int) -> float | None:
    """Finished epochs, including the fraction of the current one; None if its length is unknown."""
    batches = trainer.num_training_batches
    return trainer.current_epoch + (batch_idx + 1) / batches if math.isfinite(batches) else None


def log_interval(trainer: Any, every: Cadence) -> int:
    """The interval, in steps, at which the Trainer logs. Without a logger, a number of steps in the set counts."""
    return every if isinstance(every, int) and not has_logger(trainer) else max(1, int(trainer.log_every_n_steps))


def has_logger(trainer: Any) -> bool:
    """Whether the Trainer has a logger of its own."""
    return any(not isinstance(logger, Listener) for logger in trainer.loggers)


def logged_step(trainer: Any, step: int | None, finished: int) -> int:
    """The step of values that are logged now, counted from 1.

    Lightning counts finished steps. While a step or an epoch begins, its number is that of our finished steps: what is
    logged then, such as a rate, belongs to the step that follows. At their end, its number is one less.

    Args:
        trainer: the Trainer, while it fits.
        step: the step that is passed to its loggers.
        finished: number of finished steps.
    """
    # A private attribute, as in Lightning's own callbacks.
    own: int | None = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", None)
    if step is not None and own is not None and step != own:
        return step  # the user's own number
    return finished + 1 if own == finished else finished


def last_step(trainer: Any, pl_module: Any) -> int | None:
    """The number of the last step, if the training is not stopped early; None if it is unknown."""
    if not pl_module.automatic_optimization:
        return None  # max_steps counts the steps of all optimizers
    steps: float = trainer.estimated_stepping_batches
    return int(steps) if math.isfinite(steps) and steps > 0 else None


def is_step(trainer: Any, pl_module: Any, batch_idx: int) -> bool:
    """Whether Lightning counts this batch as a step, as in the steps of its own loggers and monitors.

    It counts each batch of a module that optimizes manually, and each complete accumulation otherwise, also where the
    loss scale skips the optimizer's step.
    """
    accumulated = (batch_idx + 1) % int(trainer.accumulate_grad_batches) == 0
    return not pl_module.automatic_optimization or accumulated or bool(trainer.is_last_batch)


def steps_per_epoch(trainer: Any, pl_module: Any) -> int | None:
    """Optimizer steps in an epoch; None for data without a length, and for a module that steps by itself."""
    batches: float = trainer.num_training_batches
    if not pl_module.automatic_optimization or not math.isfinite(batches):
        return None
    return max(1, math.ceil(batches / int(trainer.accumulate_grad_batches)))


def batch_size(trainer: Any) -> int | None:
    """Samples in a full micro-batch; None if there is no single DataLoader that tells."""
    loader = trainer.train_dataloader
    sizes = (getattr(source, "batch_size", None) for source in (loader, getattr(loader, "batch_sampler", None)))
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def loss_scale(trainer: Any, optimizer: Any) -> Tensor | None:
    """The factor by which gradients are still multiplied: fused optimizers unscale them inside their step."""
    return scale_of(scaler(trainer)) if changes_gradients_itself(optimizer) else None


def scaler(trainer: Any) -> Any:
    """The GradScaler of mixed precision; None without one."""
    return getattr(trainer.precision_plugin, "scaler", None)


def hparams(trainer: Any, pl_module: Any) -> dict[str, Any]:
    """Hyper-parameters for the HParams tab: those of the Trainer, then those that the module has saved."""
    found: dict[str, Any] = {"batch_size": getattr(trainer.train_dataloader, "batch_size", None)}
    if pl_module.automatic_optimization:
        found["gradient_accumulation_steps"] = trainer.accumulate_grad_batches
        found["max_grad_norm"] = trainer.gradient_clip_val or None
    known = {name: value for name, value in found.items() if value is not None}
    return {**known, **plain_hparams(pl_module.hparams)}


def texts(pl_module: Any) -> dict[str, str]:
    """The hyper-parameters that the module has saved, as text."""
    lines = [f"{name}: {value}" for name, value in plain_hparams(pl_module.hparams).items()]
    return {"hparams": "\n".join(lines)} if lines else {}
