"""Reads from a loss's autograd graph how the loss was reduced and scaled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from tbx_callbacks._wiring.loss_graph import MEAN, SAME_VALUE, SUM, node_name

_POINTWISE = ("Add", "Sub", "Mul", "Div", "Neg", *SAME_VALUE)
_DDP = "_DDPSink"  # passes every output of the model on
_MAX_NODES = 64


def is_mean(loss: Tensor, num_items: Any) -> bool:
    """Whether a loss is the mean over one micro-batch, and no part of it is normalised by `num_items`.

    Read from the graph of the loss, which must still exist. False where the graph does not tell.
    """
    return set(_normalisations(loss, _number(num_items))) == {"mean"}


def is_by_items(loss: Tensor, num_items: Any) -> bool:
    """Whether all parts of a loss are normalised by `num_items`; read as by `is_mean`."""
    return set(_normalisations(loss, _number(num_items))) == {"items"}


def last_factor(loss: Tensor) -> float | None:
    """The number by which a loss was multiplied last, or divided (its inverse); None without one."""
    name, number = node_name(loss.grad_fn), _other(loss.grad_fn)
    if not number or name not in ("Mul", "Div"):
        return None
    return number if name == "Mul" else 1 / number


def divides_mean(loss: Any) -> bool:
    """Whether a loss is a mean that was divided last; also after its backward pass."""
    node: Any = getattr(loss, "grad_fn", None)
    if node_name(node) != "Div":
        return False
    inner, number = node.next_functions[0]
    while node_name(inner) in SAME_VALUE or node_name(inner) == _DDP:
        inner, number = _inputs(inner, number)[0]
    return getattr(inner, "_saved_reduction", None) == MEAN or node_name(inner) == "Mean"


def _normalisations(loss: Tensor, num_items: float | None) -> Iterator[str]:
    """How each term of a loss is reduced: `mean`, `items` (divided by `num_items`), or `unknown`."""
    pending: list[tuple[Any, int, bool]] = [(loss.grad_fn, loss.output_nr, False)]
    visited = 0
    while pending:
        node, number, is_divided = pending.pop()
        visited += 1
        name, reduction = node_name(node), getattr(node, "_saved_reduction", None)
        if node is None:
            continue  # a number without gradient
        if visited > _MAX_NODES:
            yield "unknown"
            return
        if reduction == MEAN or name == "Mean":
            yield "mean"
        elif reduction == SUM or name == "Sum":
            yield "mean" if is_divided else "unknown"
        elif name == "Div" and num_items is not None and _is_multiple(_other(node), num_items):
            yield "items"
        elif name in _POINTWISE or name == _DDP:
            pending += [(*inner, is_divided or name == "Div") for inner in _inputs(node, number)]
        else:
            yield "unknown"


def _inputs(node: Any, number: int) -> list[tuple[Any, int]]:
    """The nodes before one of its outputs, each with the number of the output that it uses."""
    return [node.next_functions[number]] if node_name(node) == _DDP else list(node.next_functions)


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
