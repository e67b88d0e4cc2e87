"""What an attached callback sees of a Hugging Face Trainer, by wrapping methods of this one trainer.

They are public and called as they always were: `Trainer.training_step` and `Accelerator.clip_grad_norm_`. Tested on
transformers 4.52 to 5.23.
"""

from __future__ import annotations

import math
from typing import Any

from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._model.amp import scale_of
from tbx_callbacks.integrations.batches import labels_in, samples_in, tokens_in


def attach(trainer: Any, engine: Engine) -> None:
    """Shows the monitor each micro-batch with the loss that is trained on, and gradients before they are clipped.

    A second call changes nothing; but the Trainer makes a new accelerator for each trial of a search.
    """
    if _first_time(trainer, engine):
        _watch_batches(trainer, engine)
    if _first_time(trainer.accelerator, engine):
        _watch_clipping(trainer.accelerator, engine)


def is_attached(trainer: Any, engine: Engine) -> bool:
    """Whether the monitor is shown this trainer's micro-batches."""
    return engine in getattr(trainer, "_tbx_callbacks_attached", [])


def _first_time(owner: Any, engine: Engine) -> bool:
    if is_attached(owner, engine):
        return False
    owner.__dict__.setdefault("_tbx_callbacks_attached", []).append(engine)
    return True


def _watch_batches(trainer: Any, engine: Engine) -> None:
    train = trainer.training_step

    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if engine.wants_labels:  # label smoothing and compute_loss take them out before the model sees them
            engine.labels = labels_in(inputs)
        try:
            loss = train(model, inputs, *args, **kwargs)
        except BaseException:
            engine.suspend()  # the Trainer fires no event
            raise
        finally:
            engine.labels = None
        engine.record_batch(loss=loss.detach(), samples=samples_in(inputs), tokens=tokens_in(inputs))
        return loss

    trainer.training_step = training_step


def _watch_clipping(accelerator: Any, engine: Engine) -> None:
    clip = accelerator.clip_grad_norm_

    def clip_grad_norm_(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        if engine.has_due_metrics:
            engine.before_clip(scale_of(getattr(accelerator, "scaler", None)))
        norm = clip(parameters, max_norm, *args, **kwargs)
        if norm is not None and math.isfinite(max_norm):  # without clipping, some versions take the norm by inf
            engine.record_clipping(norm, max_norm)
        return norm

    accelerator.clip_grad_norm_ = clip_grad_norm_
