"""Whether tensors that go by one name on several ranks are copies of each other, as data parallelism has them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tbx_callbacks.merging import hash_of
from tbx_callbacks.select import Parameter
from tbx_callbacks.together import Together

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def apart(parameters: Sequence[Parameter], ranks: Together | None, pieces: Collection[int] = ()) -> str | None:
    """How plain tensors differ between ranks, in words; None when they are copies: then one rank's are counted.

    It is so where a trainer cuts plain tensors into shards, and where pipeline stages give theirs the same names. Cost:
    one pass over the weights when a training begins.

    Args:
        parameters: of the model.
        ranks: all ranks.
        pieces: ids of tensors that are known to be pieces, and are counted as such.
    """
    if ranks is None:
        return None
    marks: dict[str, float] = {}
    for parameter in parameters:
        if not isinstance(parameter.tensor, DTensor) and id(parameter.tensor) not in pieces:
            mark = _mark(parameter.tensor)
            marks.update({f"+{parameter.name}": mark, f"-{parameter.name}": -mark})
    most = ranks.largest(marks)
    names = [tag[1:] for tag in most if tag[0] == "+" and most[tag] != -most["-" + tag[1:]]]
    if not names:
        return None
    return f"plain tensors that are not the same on all ranks ({', '.join(names[:3])}{', ...' if names[3:] else ''})"


@torch.no_grad()
def _mark(tensor: Tensor) -> float:
    """A number made of the shape and of every bit, the same wherever it is computed."""
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    total = int(plain.detach().view(_BITS[plain.dtype.itemsize]).sum(dtype=torch.int64))
    return hash_of([str(tuple(tensor.shape)), str(total)])
