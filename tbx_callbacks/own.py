"""Scalars that users log themselves: averaged on the device until the next point."""

from __future__ import annotations

from torch import Tensor

from tbx_callbacks.names import check_tag
from tbx_callbacks.values import Mean, Number


class OwnScalars:
    """Means in the making, by tag."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Number, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, tag: str, value: Tensor | float) -> None:
        """Adds a value to the mean of its tag, without a host sync.

        Raises:
            ValueError: TensorBoard would rewrite the tag, or the value is not a scalar.
        """
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"{tag} must be a scalar, got shape {tuple(value.shape)}; reduce it, as by .mean()")
            value = value.detach().reshape(()).float()
        total, count = self._sums.get(check_tag(tag), (0.0, 0))
        self._sums[tag] = (total + value, count + 1)

    def take(self) -> dict[str, Mean]:
        """The means so far; the next ones start anew."""
        taken = {tag: Mean(total, count) for tag, (total, count) in self._sums.items()}
        self._sums.clear()
        return taken
