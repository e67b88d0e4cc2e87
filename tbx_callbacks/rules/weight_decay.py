"""Defines the rule that finds weights that shrink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import WEIGHT_NORMS, Need
from tbx_callbacks.rules.series_stats import ends, finite, outermost
from tbx_callbacks.rules.training_loss import has_learned
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class WeightsShrink(Rule):
    """Most layers lose much of their weight norm.

    This is a note if the loss falls all the same.
    """

    id: ClassVar[str] = "weights_shrink"
    code: ClassVar[str] = "TBX-UPD-006"
    needs: ClassVar[tuple[Need, ...]] = (WEIGHT_NORMS,)
    source: ClassVar[str] = "Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 10
    left: float = 0.5  # of the first norm; the planted faults' healthy runs keep 0.95
    layers: float = 0.5  # share of the layers that shrink that much

    def __call__(self, run: Run) -> Iterator[Finding]:
        shares: dict[str, float] = {}
        norms = outermost(WEIGHT_NORMS.all(run))
        for name, full_series in norms.items():
            series = finite(full_series)
            if len(series) >= self.min_points and series.values[0] > 0:
                first, last = float(series.values[0]), float(series.values[-1])
                shares[name] = ends(series.values)[1] / first if last < first else 1.0
        shrunk = {name: share for name, share in shares.items() if share < self.left}
        if not shrunk or len(shrunk) < self.layers * len(shares):
            return
        least = min(shrunk, key=lambda name: shrunk[name])
        series = norms[least]
        yield Finding(
            id=self.id,
            severity="note" if has_learned(run) else "warning",
            tags=tuple(f"{tags.WEIGHT_NORM}/{name}" for name in shrunk),
            steps=(int(series.steps[0]), int(series.steps[-1])),
            numbers=shrunk,
            means=f"The weights shrink: {len(shrunk)} of {len(shares)} layers have less than {self.left:.0%} of their"
            f" first norm left, {least} has {shrunk[least]:.0%}. Usually, weight decay removes more than the gradients"
            " add.",
            advice="Divide the weight decay by 10. The learning rate multiplies it, so a lower one helps too.",
            source=self.source,
        )
