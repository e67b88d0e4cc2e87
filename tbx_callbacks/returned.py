"""What is found in whatever a model returned: further losses and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


def named(outputs: Any) -> Mapping[Any, Any]:
    """What a model returned, by name: a mapping, a named tuple, a dataclass; nothing for tensors and plain tuples."""
    if isinstance(outputs, Mapping):
        return outputs
    if isinstance(outputs, tuple) and hasattr(outputs, "_asdict"):
        found: Mapping[Any, Any] = outputs._asdict()
        return found
    if is_dataclass(outputs):
        return {field.name: getattr(outputs, field.name, None) for field in fields(outputs)}
    return {}


def losses_in(outputs: Any) -> dict[str, Tensor]:
    """Every scalar `*loss*` beside `loss`, 0-d and detached, by the model's own name."""
    return {
        name: value.detach().reshape(()).to(torch.float32, copy=True)  # its memory may be used again
        for name, value in named(outputs).items()
        if isinstance(name, str) and "loss" in name.lower() and name != "loss" and _is_scalar(value)
    }


def logits_in(outputs: Any) -> Tensor | None:
    """The logits, detached: a tensor alone, what is named `logits`, or what follows the loss in a tuple.

    A tuple that does not begin with its loss may hold anything: hidden states with as many places as labels, too.
    """
    found = named(outputs).get("logits")
    if isinstance(outputs, Tensor):
        found = outputs
    elif type(outputs) in (tuple, list) and len(outputs) > 1 and _is_scalar(outputs[0]):
        found = outputs[1]
    return found.detach() if isinstance(found, Tensor) and found.ndim else None


def vocabulary_of(model: nn.Module) -> int | None:
    """Number of words that a model knows: of its configuration, or else the rows of its largest embedding."""
    sizes = (getattr(getattr(module, "config", None), "vocab_size", None) for module in model.modules())
    said = next((size for size in sizes if isinstance(size, int)), None)
    if said is not None:
        return said
    return max((module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)), default=None)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()
