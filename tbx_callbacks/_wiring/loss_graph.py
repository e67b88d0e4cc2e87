"""Reads from the autograd graph of a loss what cross entropies get, and whether the loss is maximised."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._wiring.check import Check

SAME_VALUE = ("ToCopy", "Clone", "Squeeze", "Unsqueeze", "View", "Reshape", "Alias")
"""Nodes that pass a number on as it is."""
_SAME_VALUES = (
    *SAME_VALUE,
    "UnsafeView",
    "Transpose",
    "T",
    "Permute",
    "Slice",
    "Select",
    "Index",
    "DDPSink",
    "_DDPSink",
)
MEAN, SUM = 1, 2
"""Values of `reduction` in torch's losses."""
_LIMITS = ("Clamp", "ClampMin", "ClampMax")
_LAYERS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "MkldnnLinear")
"""Nodes of linear layers, whose outputs may be above zero, which logarithms of probabilities never are."""
_MAX_NODES = 400
_LOSSES = ("NllLoss", "BinaryCrossEntropy", "MseLoss", "SmoothL1Loss", "HuberLoss", "CtcLoss")
"""Nodes of losses that are never below zero, or whose smaller values are better."""


def inputs_of_cross_entropy(loss: Tensor) -> dict[str, Check]:
    """Checks the inputs of cross entropies in a loss's graph, which must still exist.

    `double_softmax` counts cross entropies whose input went through `softmax` or `sigmoid` already, and
    `nll_of_logits` counts `nll_loss` whose input comes straight from a linear layer. No check where the graph has no
    such loss, or is compiled.
    """
    pending, seen = [loss.grad_fn], set[Any]()
    found, likelihoods, logits = 0, 0, 0
    wrong = dict[str, None]()
    while pending and len(seen) < _MAX_NODES:
        node = pending.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node_name(node)
        if name in ("LogSoftmax", "BinaryCrossEntropyWithLogits"):
            found += 1
            before = node_name(_origin(node))
            if before in ("Softmax", "Sigmoid"):
                wrong[before.lower()] = None
            continue  # what is below belongs to the model
        if name.startswith("NllLoss"):
            before = node_name(_origin(node))
            likelihoods += 1
            if before in _LAYERS:
                logits += 1
                continue
            if before in ("Softmax", "Sigmoid"):
                found += 1
                wrong[before.lower()] = None
                continue
        pending += [inner for inner, _ in node.next_functions]
    checks = {"double_softmax": Check(len(wrong), " and ".join(wrong))} if found else {}
    return checks | ({"nll_of_logits": Check(logits)} if likelihoods else {})


def is_mean_cross_entropy(loss: Tensor) -> bool:
    """Whether a loss is a mean cross entropy, neither scaled nor added to others; also after its backward pass."""
    node: Any = loss.grad_fn
    while node_name(node) in _SAME_VALUES and len(node.next_functions) == 1:
        node = node.next_functions[0][0]
    return node_name(node).startswith("NllLoss") and getattr(node, "_saved_reduction", None) == MEAN


def maximised(loss: Tensor) -> dict[str, Check]:
    """Checks the sign of the losses in a loss's graph, which must still exist.

    `loss_maximised` counts losses of torch that enter with a minus, if none enters without one. No check where the
    graph has none of these losses. A part that is maximised beside another loss is no finding: adversaries do so.
    """
    pending: list[tuple[Any, int]] = [(loss.grad_fn, 1)]
    signs, seen = list[int](), set[tuple[Any, int]]()
    while pending:
        node, sign = term = pending.pop(0)
        if term in seen:
            continue
        seen.add(term)
        if node_name(node).startswith(_LOSSES):
            signs.append(sign)
            continue
        inner = _terms(node, sign)
        if inner is None or len(seen) >= _MAX_NODES:
            return {}  # a sign is not known
        pending += inner
    if not signs:
        return {}
    return {"loss_maximised": Check(0 if 1 in signs else len(signs))}


def _terms(node: Any, sign: int) -> list[tuple[Any, int]] | None:
    """Returns the terms of which a node is the sum, with their signs; None if a sign is not known."""
    name, inputs = node_name(node), [] if node is None else [inner for inner, _ in node.next_functions]
    if name == "Neg" or name.startswith("Rsub"):
        return [(inputs[0], -sign)]
    if name in ("Mul", "Div"):
        factor = _constant(node)
        if factor is None or (factor < 0 and (isinstance(factor, Tensor) or not _is_plain(-factor))):
            return None  # a reward has any value, and is a tensor
        return [(inputs[0], sign if factor >= 0 else -sign)]
    if name == "Sub":
        return [(inner, sign * own) for inner, own in zip(inputs, (1, -1), strict=False)]
    return [(inner, sign) for inner in inputs] if name in ("Add", "Sum", "Mean", *_SAME_VALUES) else []


def _is_plain(factor: float) -> bool:
    """Whether a factor is one that people write beside a loss: a whole number, or 1 divided by one."""
    return factor.is_integer() or abs(1 / factor - round(1 / factor)) < 1e-6


def _constant(node: Any) -> float | Tensor | None:
    """Returns the number by which a node multiplies or divides; None for a tensor, or after the backward pass."""
    try:
        number = node._saved_other
    except (AttributeError, RuntimeError):
        return None
    if isinstance(number, Tensor):
        if number.numel() != 1 or number.device.type != "cpu":
            return None
        return float(number) if number.dtype == torch.float64 else number  # autograd wraps a number of Python so
    return float(number) if isinstance(number, (int, float)) else None


def _origin(node: Any) -> Any:
    """Returns the node that computed the first input of a node, but for its shape and its limits."""
    inner = node.next_functions[0][0] if node.next_functions else None
    while inner is not None and node_name(inner) in (*_SAME_VALUES, *_LIMITS) and inner.next_functions:
        inner = inner.next_functions[0][0]
    return inner


def node_name(node: Any) -> str:
    """Returns the name of a node of the autograd graph, such as `NllLoss`; "" for None."""
    return "" if node is None else str(node.name()).rstrip("0123456789").removesuffix("Backward")
