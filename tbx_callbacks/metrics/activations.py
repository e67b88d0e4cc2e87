"""Defines the metric `Activations`, which summarizes the outputs of modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from tbx_callbacks._stats.histogram import check_bins
from tbx_callbacks._stats.norms import square_norms
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Histogram, Mean, Rms, Value
from tbx_callbacks.tags import ACTIVATIONS


@dataclass(frozen=True)
class Activations(Metric):
    """RMS norm, mean, share of zeros and histogram of module outputs in the first forward pass of the step.

    Covers all elements, padding included, of the first tensor that a module returns in training mode. The norm is the
    root mean square, `sqrt(mean(x**2))`, so it does not depend on the batch size. `modules` is a regex searched in the
    module names; by default the metric covers the model's layers, as in `by: layer`. With gradient accumulation only
    the first micro-batch counts, and only the first call of a module. Skipped for compiled models. Merged over ranks as
    sums; ranks first agree on histogram edges, so outputs stay in memory until the step. Cost: five passes over the
    activations, no hooks on other steps.
    """

    modules: str | None = None
    """Regex searched in the module names."""
    bins: int = 64
    """Number of bins, 1 to 255."""

    tags: ClassVar[Mapping[str, str]] = {
        f"{ACTIVATIONS}/<module>": "histogram",
        f"{ACTIVATIONS}/<module>/norm": "root mean square",
        f"{ACTIVATIONS}/<module>/mean": "",
        f"{ACTIVATIONS}/<module>/zero_share": "share of elements",
    }
    needs: ClassVar[frozenset[str]] = frozenset({"activations"})
    cost: ClassVar[str] = "five passes over the activations"

    def __post_init__(self) -> None:
        check_bins(self.bins)
        try:
            re.compile(self.modules or "")
        except re.error as error:
            raise ValueError(f"modules must be a valid regular expression, got {self.modules!r}: {error}") from error

    def __call__(self, context: Context) -> Values:
        values: dict[str, Value | Histogram] = {}
        for name, tensor in context.activations.items():
            elements = tensor.numel()
            wide_dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
            values[f"{ACTIVATIONS}/{name}"] = Histogram((tensor,), bins=self.bins)
            values[f"{ACTIVATIONS}/{name}/norm"] = Rms(square_norms([tensor]).sum(), elements)
            values[f"{ACTIVATIONS}/{name}/mean"] = Mean(tensor.sum(dtype=wide_dtype), elements)
            values[f"{ACTIVATIONS}/{name}/zero_share"] = Mean(elements - torch.count_nonzero(tensor), elements)
        return values
