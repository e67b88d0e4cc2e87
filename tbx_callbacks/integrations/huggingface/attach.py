"""Wraps methods of one Hugging Face Trainer, so that an attached callback receives its batches and gradients.

The wrapped methods are public, and their behaviour is unchanged: `Trainer.training_step` and
`Accelerator.clip_grad_norm_`. Tested on transformers 4.52 to 5.23.
"""

from __future__ import annotations

import math
from typing import Any

from tbx_callbacks._model.amp import scale_of
from tbx_callbacks.integrations.batches import labels_in, samples_in, tokens_in
from tbx_callbacks.integrations.session import Session


def attach(trainer: Any, session: Session) -> None:
    """Passes each micro-batch with its training loss, and the gradients before clipping, to the session.

    A second call changes nothing, except that the Trainer creates a new accelerator for each trial of a search.
    """
    if _mark_attached(trainer, session):
        _wrap_training_step(trainer, session)
    if _mark_attached(trainer.accelerator, session):
        _wrap_clipping(trainer.accelerator, session)


def is_attached(trainer: Any, session: Session) -> bool:
    """Whether the session receives this trainer's micro-batches."""
    return session in getattr(trainer, "_tbx_callbacks_attached", [])


def _mark_attached(owner: Any, session: Session) -> bool:
    if is_attached(owner, session):
        return False
    owner.__dict__.setdefault("_tbx_callbacks_attached", []).append(session)
    return True


def _wrap_training_step(trainer: Any, session: Session) -> None:
    original_step = trainer.training_step

    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if session.needs_labels:  # label smoothing and compute_loss remove them before the forward pass
            session.expect_labels(labels_in(inputs))
        try:
            loss = original_step(model, inputs, *args, **kwargs)
        except BaseException:
            session.suspend()  # the Trainer fires no event on an exception
            raise
        finally:
            if session.needs_labels:
                session.expect_labels(None)
        if session.running:
            session.record_batch(loss=loss.detach(), samples=samples_in(inputs), tokens=tokens_in(inputs))
        return loss

    trainer.training_step = training_step


def _wrap_clipping(accelerator: Any, session: Session) -> None:
    original_clip = accelerator.clip_grad_norm_

    def clip_grad_norm_(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        if session.has_due_metrics:
            session.before_clip(scale_of(getattr(accelerator, "scaler", None)))
        norm = original_clip(parameters, max_norm, *args, **kwargs)
        if norm is not None and math.isfinite(max_norm):  # some versions compute an unclipped norm by clipping to inf
            session.record_clipping(norm, max_norm)
        return norm

    accelerator.clip_grad_norm_ = clip_grad_norm_
