"""The one place that reaches into a Hugging Face Trainer's private methods. Tested on transformers 5.23."""

from __future__ import annotations

from typing import Any

from tbx_callbacks.adapters.batches import samples_in, tokens_in
from tbx_callbacks.amp import scale_of
from tbx_callbacks.monitor import Monitor


def attach(trainer: Any, monitor: Monitor) -> None:
    """Wraps this trainer's `_clip_grad_norm` and `_get_grad_norm`, so that gradients are seen before they are clipped.

    Its `training_step` is wrapped too: what it returns is the loss that is trained on. The wrapped methods are called
    with the same arguments and return what they returned. A second call changes nothing.

    Raises:
        RuntimeError: this version of transformers has no such methods.
    """
    clip = getattr(trainer, "_clip_grad_norm", None)
    norm = getattr(trainer, "_get_grad_norm", None)
    if clip is None or norm is None:
        raise RuntimeError(
            "attach needs a transformers Trainer with _clip_grad_norm and _get_grad_norm (5.0 or later), got"
            f" {type(trainer).__name__}; leave attach out: norms are then derived from the norm that the trainer logs"
        )
    attached = trainer.__dict__.setdefault("_tbx_callbacks_attached", [])
    if monitor in attached:
        return
    attached.append(monitor)

    def clip_grad_norm(*args: Any, **kwargs: Any) -> Any:
        monitor.before_clip(scale_of(trainer.accelerator.scaler))
        total = clip(*args, **kwargs)
        if total is not None:
            monitor.clipped(total, trainer.args.max_grad_norm)
        return total

    def get_grad_norm(*args: Any, **kwargs: Any) -> Any:
        # Does nothing when clip_grad_norm was called before: this is the way without clipping.
        monitor.before_clip(scale_of(trainer.accelerator.scaler))
        return norm(*args, **kwargs)

    train = trainer.training_step

    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = train(model, inputs, *args, **kwargs)
        if trainer.args.world_size == 1:
            monitor.batch(loss=loss.detach(), samples=samples_in(inputs), tokens=tokens_in(inputs))
        return loss

    trainer.training_step = training_step
    trainer._clip_grad_norm = clip_grad_norm
    trainer._get_grad_norm = get_grad_norm
