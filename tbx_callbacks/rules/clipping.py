"""Defines the rule that finds saturated gradient clipping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import CLIP_FACTOR, Need
from tbx_callbacks.rules.series_stats import finite, median
from tbx_callbacks.rules.training_loss import has_learned
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class ClippingSaturated(Rule):
    """Clipping shrinks nearly every gradient to a small fraction of its norm.

    This is a note if the loss falls all the same, as optimizers do that divide by the size of the gradient.
    """

    id: ClassVar[str] = "clipping_saturated"
    code: ClassVar[str] = "TBX-GRAD-004"
    needs: ClassVar[tuple[Need, ...]] = (CLIP_FACTOR,)
    source: ClassVar[str] = (
        "Zhang, He, Sra and Jadbabaie 2020, Why Gradient Clipping Accelerates Training, arXiv:1905.11881"
    )

    min_points: int = 10
    share: float = 0.95  # of the steps, or of the points if the share of steps is not logged
    factor: float = 0.05  # usual norms of 1 to 10 and a limit of 1 give 0.1 to 1

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = CLIP_FACTOR.first(run)
        if entry is None or len(series := finite(entry[1])) < self.min_points:
            return
        factor = median(series.values)
        shares = run.scalars.get(tags.CLIP_SHARE)
        share = median(shares.values) if shares is not None else float((series.values < 1).mean())
        if share < self.share or factor >= self.factor:
            return
        yield Finding(
            id=self.id,
            severity="note" if has_learned(run) else "warning",
            tags=(entry[0], *([tags.CLIP_SHARE] if shares is not None else [])),
            steps=(int(series.steps[0]), int(series.steps[-1])),
            numbers={"factor": factor, "share": share},
            means=f"{share:.0%} of the gradients are clipped, usually to {factor:.2g} of their norm."
            " The clipping limit sets the update size, not the gradient, unless the optimizer divides by the size of"
            " the gradient.",
            advice="Raise the limit (max_grad_norm) to about the usual gradient norm. Lower the learning rate if the"
            " gradients are that large because the training is unstable.",
            source=self.source,
        )
