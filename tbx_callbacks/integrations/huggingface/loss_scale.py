"""Notices a Trainer whose loss and gradients grow with the number of micro-batches or ranks.

The Trainer does not divide the loss by the micro-batches of a step where it believes that the loss is normalised by
`num_items_in_batch`. It believes so of every model whose forward pass takes `**kwargs`, though many ignore them. With
`average_tokens_across_devices` it also multiplies by the ranks. Tested on transformers 4.52 to 5.23.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

_MEAN, _SUM = 1, 2  # values of `reduction` in torch's losses
_POINTWISE = ("Add", "Sub", "Mul", "Div", "Neg", "ToCopy", "Clone", "Squeeze", "Unsqueeze", "View", "Reshape", "Alias")
_MAX_NODES = 64
REMEDY = "first set model.accepts_loss_kwargs = False"
REMEDY_OF_FUNCTION = "divide its sum by num_items_in_batch in compute_loss_func"


def warning(factor: int, remedy: str) -> str:
    """The warning about a loss that is `factor` times too large."""
    return (
        f"train/loss and gradients are {factor} times too large: the Trainer takes a mean loss as normalised by"
        f" num_items_in_batch; {remedy}"
    )


def is_mean(loss: Tensor, num_items: Any) -> bool:
    """Whether a loss is the mean over one micro-batch, and no part of it is normalised by `num_items`.

    Read from the graph of the loss, which must still exist. False where the graph does not tell.
    """
    return set(_normalisations(loss.grad_fn, _number(num_items))) == {"mean"}


def last_factor(loss: Tensor) -> float | None:
    """The number by which a loss was multiplied last, or divided (its inverse); None without one."""
    name, number = _name(loss.grad_fn), _other(loss.grad_fn)
    if not number or name not in ("Mul", "Div"):
        return None
    return number if name == "Mul" else 1 / number


def nearest_factor(ratio: float, micro_batches: int, ranks: int) -> int:
    """The factor closest to the measured one: 1, the micro-batches of a step, the ranks, or both."""
    if not math.isfinite(ratio) or ratio <= 0:
        return 1
    factors = (1, micro_batches, ranks, micro_batches * ranks)
    return min(factors, key=lambda factor: abs(math.log(ratio / factor)))


class LossComparison:
    """Compares the loss that the Trainer logs with the model's own mean losses, up to the first log.

    Args:
        micro_batches: of a step.
        ranks: number of ranks.
    """

    def __init__(self, micro_batches: int, ranks: int) -> None:
        self._micro_batches, self._ranks = micro_batches, ranks
        self._sum: Tensor | None = None
        self._count = 0
        self.is_open = micro_batches > 1 or ranks > 1
        """Whether the comparison still needs losses."""

    def add(self, loss: Tensor | None, num_items: Any) -> None:
        """Adds the loss that the model returned for a micro-batch, before its backward pass."""
        if loss is None or (self._sum is None and not is_mean(loss, num_items)):
            self.is_open = False  # the loss is normalised, or is not the model's own, or the graph does not tell
            return
        value = loss.detach().float().clone()
        self._sum, self._count = value if self._sum is None else self._sum + value, self._count + 1

    def factor(self, logged: float) -> int:
        """By how many times the logged loss is too large; ends the comparison if the loss is finite."""
        if self._sum is None or not math.isfinite(logged):
            return 1
        mean, self.is_open = float(self._sum) / self._count, False
        return nearest_factor(logged / mean, self._micro_batches, self._ranks) if mean else 1


def _normalisations(node: Any, num_items: float | None) -> Iterator[str]:
    """How each term of a loss is reduced: `mean`, `items` (divided by `num_items`), or `unknown`."""
    pending, visited = [(node, False)], 0
    while pending:
        node, is_divided = pending.pop()
        visited += 1
        name, reduction = _name(node), getattr(node, "_saved_reduction", None)
        if node is None:
            continue  # a number without gradient
        if visited > _MAX_NODES:
            yield "unknown"
            return
        if reduction == _MEAN or name == "Mean":
            yield "mean"
        elif reduction == _SUM or name == "Sum":
            yield "mean" if is_divided else "unknown"
        elif name == "Div" and num_items is not None and _is_multiple(_other(node), num_items):
            yield "items"
        elif name in _POINTWISE:
            pending += [(inner, is_divided or name == "Div") for inner, _ in node.next_functions]
        else:
            yield "unknown"


def _name(node: Any) -> str:
    return "" if node is None else str(node.name()).rstrip("0123456789").removesuffix("Backward")


def _other(node: Any) -> float | None:
    """The number by which a node multiplies or divides; None if it is a tensor, or is no longer kept."""
    try:
        return _number(node._saved_other)
    except (AttributeError, RuntimeError):
        return None


def _is_multiple(divisor: float | None, num_items: float) -> bool:
    """Whether a term is divided by the items, or by the items times a constant such as the number of classes."""
    return divisor is not None and num_items > 0 and divisor > 0 and (divisor / num_items).is_integer()


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, (int, float)) else None
