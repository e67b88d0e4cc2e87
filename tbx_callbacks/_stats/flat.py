"""Flattens tensors to 1-D tensors of real numbers, and moves them between devices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def elements(tensor: Tensor) -> Tensor:
    """Returns a sparse tensor's values, each index once, since absent elements are zeros; other tensors unchanged.

    For sparse tensors on CUDA this is a host sync, because the number of values determines the size of the result.
    """
    return tensor.detach().coalesce().values() if tensor.is_sparse else tensor


def flat(tensor: Tensor) -> Tensor:
    """Returns the elements as a contiguous real 1-D tensor (two per complex element); a view if possible."""
    plain = tensor.dim() == 1 and tensor.layout is torch.strided and not tensor.is_complex()
    if plain and tensor.is_contiguous() and not tensor.requires_grad:
        return tensor
    tensor = elements(tensor).detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.reshape(-1)


def flat_all(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns `flat(tensor)` of each tensor. Usual tensors take no call of their own."""
    return [
        tensor.detach().reshape(-1) if tensor.layout is torch.strided and not tensor.is_complex() else flat(tensor)
        for tensor in tensors
    ]


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device: asynchronously to an accelerator, synchronously to the CPU, where it may be read."""
    return tensor.to(device, non_blocking=device.type != "cpu")
