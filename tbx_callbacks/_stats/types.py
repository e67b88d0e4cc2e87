"""Defines the type `Number`."""

from __future__ import annotations

from torch import Tensor

Number = float | Tensor
"""A number on the host, or a one-element tensor on a device."""
