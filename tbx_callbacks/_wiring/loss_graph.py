"""Reads from the autograd graph of a loss whether cross entropy gets probabilities."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tbx_callbacks._wiring.check import Check

_SAME_VALUE = ("ToCopy", "Clone", "Squeeze", "Unsqueeze", "View", "UnsafeView", "Reshape", "Alias", "Transpose", "T",
               "Permute", "Slice", "Select", "Index", "DDPSink", "_DDPSink")  # fmt: skip
_MAX_NODES = 400


def probabilities_as_logits(loss: Tensor) -> dict[str, Check]:
    """Checks the inputs of cross entropies in a loss's graph, which must still exist.

    `double_softmax` counts cross entropies whose input went through `softmax` or `sigmoid` already. No check where the
    graph has no cross entropy, or is compiled.
    """
    pending, seen = [loss.grad_fn], set[Any]()
    found, wrong = 0, dict[str, None]()
    while pending and len(seen) < _MAX_NODES:
        node = pending.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        name = _name(node)
        if name in ("LogSoftmax", "BinaryCrossEntropyWithLogits"):
            found += 1
            before = _name(_origin(node))
            if before in ("Softmax", "Sigmoid"):
                wrong[before.lower()] = None
            continue  # what is below belongs to the model
        if name.startswith("NllLoss") and _name(_origin(node)) in ("Softmax", "Sigmoid"):
            found += 1
            wrong[_name(_origin(node)).lower()] = None
            continue
        pending += [inner for inner, _ in node.next_functions]
    if not found:
        return {}
    return {"double_softmax": Check(len(wrong), " and ".join(wrong))}


def _origin(node: Any) -> Any:
    """Returns the node that computed the first input of a node."""
    inner = node.next_functions[0][0] if node.next_functions else None
    while inner is not None and _name(inner) in _SAME_VALUE and inner.next_functions:
        inner = inner.next_functions[0][0]
    return inner


def _name(node: Any) -> str:
    return "" if node is None else str(node.name()).rstrip("0123456789").removesuffix("Backward")
