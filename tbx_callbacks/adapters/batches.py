"""What a micro-batch holds, in the form that models of transformers take and give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def samples_in(inputs: Mapping[str, Any]) -> int:
    """Number of samples: the first dimension of `input_ids`, or else of the first tensor that has one."""
    ids = inputs.get("input_ids")
    tensors = [ids] if isinstance(ids, Tensor) else [value for value in inputs.values() if isinstance(value, Tensor)]
    return next((tensor.shape[0] for tensor in tensors if tensor.ndim), 0)


def tokens_in(inputs: Mapping[str, Any]) -> Tensor | None:
    """Number of tokens that the attention mask lets through, 0-d, on the mask's device; None without a 2-D mask.

    Where a row has several texts, each with a mask of its own (`anchor_attention_mask`), those of all of them.
    """
    masks = [mask for name, mask in inputs.items() if str(name).endswith("_attention_mask")]
    masks = [inputs["attention_mask"]] if "attention_mask" in inputs else masks
    counts = [mask.sum() for mask in masks if isinstance(mask, Tensor) and mask.ndim == 2]
    return torch.stack(counts).sum() if len(counts) > 1 else next(iter(counts), None)


def loss_in(outputs: Any) -> Tensor | None:
    """The loss that a model returned, 0-d; None when it returned none."""
    if isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    else:
        loss = outputs[0] if isinstance(outputs, tuple) and outputs else getattr(outputs, "loss", None)
    return loss if isinstance(loss, Tensor) and loss.ndim == 0 else None
