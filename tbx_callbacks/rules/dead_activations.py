"""Defines the rule that finds dead activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import ZERO_SHARES, Need
from tbx_callbacks.rules.series_stats import finite, median
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class DeadActivations(Rule):
    """Nearly all activations of a module are zero."""

    id: ClassVar[str] = "dead_activations"
    code: ClassVar[str] = "TBX-ACT-001"
    needs: ClassVar[tuple[Need, ...]] = (ZERO_SHARES,)
    source: ClassVar[str] = "Lu, Shin, Su and Karniadakis 2019, Dying ReLU and Initialization, arXiv:1903.06733"

    min_points: int = 2  # activations are usually measured every 50 steps
    share: float = 0.99  # of zeros, median of the second half; trained ReLU transformers reach 0.97 (arXiv:2210.06313)

    def __call__(self, run: Run) -> Iterator[Finding]:
        for tag, full_series in ZERO_SHARES.all(run).items():
            series = finite(full_series)
            if len(series) < self.min_points:
                continue
            share = median(series.values[len(series) // 2 :])
            if share >= self.share:
                step = int(series.steps[(series.values >= self.share).argmax()])
                module = tag.removeprefix(f"{tags.ACTIVATIONS}/").removesuffix("/zero_share")
                yield Finding(
                    id=self.id,
                    severity="warning",
                    tags=(tag,),
                    steps=(step,),
                    numbers={"share": share},
                    means=f"{share:.1%} of the activations of {module} are zero, first at step {step}. Units"
                    " that are zero for every input receive no gradient.",
                    advice="Check the module's bias, which may be far below zero. If the units died during the"
                    " training, lower the learning rate or warm up. GELU and leaky ReLU leave a gradient.",
                    source=self.source,
                )
