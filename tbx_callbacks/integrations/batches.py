"""Reads labels, sample and token counts, and losses from micro-batches and model outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_LABELS = ("labels", "label", "targets", "target", "y")


def labels_in(batch: Any) -> Any:
    """The labels of a batch: by their usual names, or the integers of a pair `(inputs, labels)`; None without any."""
    if isinstance(batch, Mapping):
        return next((batch[name] for name in _LABELS if name in batch), None)
    is_pair = isinstance(batch, (list, tuple)) and len(batch) == 2
    labels = batch[1] if is_pair else None
    return labels if isinstance(labels, Tensor) and not labels.is_floating_point() else None


def samples_in(batch: Any) -> int:
    """Number of samples: the first dimension of `input_ids`, or else of the first tensor that has one.

    Args:
        batch: a mapping of tensors, a sequence of tensors, or one tensor.
    """
    inputs = batch if isinstance(batch, Mapping) else _as_mapping(batch)
    ids = inputs.get("input_ids")
    if isinstance(ids, Tensor) and ids.ndim:
        return ids.shape[0]
    return next((value.shape[0] for value in inputs.values() if isinstance(value, Tensor) and value.ndim), 0)


def tokens_in(batch: Any) -> Tensor | None:
    """The attention mask `[samples, length]`, whose sum is the number of tokens; None without a mask of that shape.

    Where a row has several texts with their own masks (`anchor_attention_mask`), the total number of their tokens.
    """
    if not isinstance(batch, Mapping):
        return None
    if "attention_mask" in batch:
        mask = batch["attention_mask"]
        return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
    masks = [mask for name, mask in batch.items() if isinstance(name, str) and name.endswith("_attention_mask")]
    masks = [mask for mask in masks if isinstance(mask, Tensor) and mask.ndim == 2]
    return torch.stack([mask.sum() for mask in masks]).sum() if masks else None


def loss_in(outputs: Any) -> Tensor | None:
    """The loss in a model's outputs, 0-d and detached; None without one."""
    if isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    else:
        loss = outputs[0] if isinstance(outputs, tuple) and outputs else getattr(outputs, "loss", None)
    if not isinstance(loss, Tensor) or loss.ndim:
        return None
    return loss.detach() if loss.requires_grad else loss


def scalar_norm(norm: Any) -> Any:
    """The norm of all gradients, 0-d.

    Raises:
        ValueError: it has more than one element.
    """
    if isinstance(norm, Tensor) and norm.numel() != 1:
        raise ValueError(f"norm must be a scalar, got shape {tuple(norm.shape)}; pass the norm of all gradients")
    return norm.reshape(()) if type(norm) is Tensor else norm


def scalar_loss(loss: Tensor | float) -> Tensor:
    """The user's loss, 0-d and detached.

    Raises:
        ValueError: it has more than one element.
    """
    if not isinstance(loss, Tensor):
        return torch.tensor(loss)
    if loss.numel() != 1:
        raise ValueError(f"loss must be a scalar, got shape {tuple(loss.shape)}; reduce it, for example with .mean()")
    return loss.detach().reshape(()) if loss.ndim else loss.detach()


def _as_mapping(batch: Any) -> Mapping[Any, Any]:
    """The elements of a sequence, or the single tensor, by index."""
    return dict(enumerate(batch)) if isinstance(batch, (list, tuple)) else {0: batch}
