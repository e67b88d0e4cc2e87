"""Any tensor as a flat one of real numbers, and from one device to another."""

from __future__ import annotations

import torch
from torch import Tensor


def elements(tensor: Tensor) -> Tensor:
    """A sparse tensor's values, each place once; its absent elements are zeros, which add nothing. Others as they are.

    On CUDA the thread waits for the number of the values, which decides the size of the result: no way around it.
    """
    return tensor.detach().coalesce().values() if tensor.is_sparse else tensor


def flat(tensor: Tensor) -> Tensor:
    """The elements as a contiguous 1-D tensor, real (a complex element counts as two); a view where possible."""
    plain = tensor.dim() == 1 and tensor.layout is torch.strided and not tensor.is_complex()
    if plain and tensor.is_contiguous() and not tensor.requires_grad:
        return tensor
    tensor = elements(tensor).detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.reshape(-1)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On another device. Nothing waits for it there; on the CPU it is complete, since it may be read at once."""
    return tensor.to(device, non_blocking=device.type != "cpu")
