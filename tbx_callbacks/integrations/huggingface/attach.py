"""Wraps methods of one Hugging Face Trainer, so that an attached callback receives its batches and gradients.

The wrapped methods are public, and their behaviour is unchanged: `Trainer.training_step` and
`Accelerator.clip_grad_norm_`. Tested on transformers 4.52 to 5.23.
"""

from __future__ import annotations

import math
from typing import Any

from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._model.amp import scale_of
from tbx_callbacks.integrations.batches import labels_in, samples_in, tokens_in


def attach(trainer: Any, engine: Engine) -> None:
    """Passes each micro-batch with its training loss, and the gradients before clipping, to the engine.

    A second call changes nothing, except that the Trainer creates a new accelerator for each trial of a search.
    """
    if _mark_attached(trainer, engine):
        _wrap_training_step(trainer, engine)
    if _mark_attached(trainer.accelerator, engine):
        _wrap_clipping(trainer.accelerator, engine)


def is_attached(trainer: Any, engine: Engine) -> bool:
    """Whether the engine receives this trainer's micro-batches."""
    return engine in getattr(trainer, "_tbx_callbacks_attached", [])


def _mark_attached(owner: Any, engine: Engine) -> bool:
    if is_attached(owner, engine):
        return False
    owner.__dict__.setdefault("_tbx_callbacks_attached", []).append(engine)
    return True


def _wrap_training_step(trainer: Any, engine: Engine) -> None:
    original_step = trainer.training_step

    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if engine.wants_labels:  # label smoothing and compute_loss remove them before the forward pass
            engine.labels = labels_in(inputs)
        try:
            loss = original_step(model, inputs, *args, **kwargs)
        except BaseException:
            engine.suspend()  # the Trainer fires no event on an exception
            raise
        finally:
            engine.labels = None
        engine.record_batch(loss=loss.detach(), samples=samples_in(inputs), tokens=tokens_in(inputs))
        return loss

    trainer.training_step = training_step


def _wrap_clipping(accelerator: Any, engine: Engine) -> None:
    original_clip = accelerator.clip_grad_norm_

    def clip_grad_norm_(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        if engine.has_due_metrics:
            engine.before_clip(scale_of(getattr(accelerator, "scaler", None)))
        norm = original_clip(parameters, max_norm, *args, **kwargs)
        if norm is not None and math.isfinite(max_norm):  # some versions compute an unclipped norm by clipping to inf
            engine.record_clipping(norm, max_norm)
        return norm

    accelerator.clip_grad_norm_ = clip_grad_norm_
