"""Averages scalars that users log on their device until the next point."""

from __future__ import annotations

from torch import Tensor

from tbx_callbacks._config.schedule import Schedule, never
from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.values import Mean
from tbx_callbacks.tags import check_tag


class UserScalars:
    """Running means by tag. `schedule` gives the points at which they are written."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Number, int]] = {}
        """Sum and count by tag since the last point."""
        self.schedule: Schedule = never

    def due(self, step: int) -> bool:
        """Whether there are means to write at this step."""
        return bool(self.sums) and self.schedule(step)

    def add(self, tag: str, value: Tensor | float) -> None:
        """Adds a value to the mean of its tag, without a host sync.

        Raises:
            ValueError: TensorBoard would rewrite the tag, or the value is not a scalar.
        """
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"{tag} must be a scalar, got shape {tuple(value.shape)}; reduce it, for example with .mean()"
                )
            value = value.detach().reshape(()).float()
        total, count = self.sums.get(check_tag(tag), (0.0, 0))
        self.sums[tag] = (total + value, count + 1)

    def pop(self) -> dict[str, Mean]:
        """Returns the means of this rank and starts new ones. Ranks may log different tags."""
        means = {tag: Mean(total, count) for tag, (total, count) in self.sums.items()}
        self.sums.clear()
        return means

    def pop_final(self) -> dict[str, FinalValue]:
        """Returns the final values of the means; waits for their device."""
        step_values = StepValues()
        step_values.add_local(self.pop())
        return step_values.finish_local()
