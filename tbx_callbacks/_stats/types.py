"""Types of numbers."""

from __future__ import annotations

from torch import Tensor

Number = float | Tensor
"""A number on the host, or a tensor of one element on a device."""
