"""LoRA adapters that stay where they began."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import LORA, Need
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class LoraNotTraining(Rule):
    """LoRA's matrices B, which start at zero, are zero still, or its matrices stand still."""

    id: ClassVar[str] = "lora_not_training"
    needs: ClassVar[tuple[Need, ...]] = (LORA,)
    source: ClassVar[str] = "Hu et al. 2021, LoRA, section 4.1 (B starts at zero), arXiv:2106.09685"

    min_points: int = 5

    def __call__(self, run: Run) -> Iterator[Finding]:
        norms = {tag: one for tag, one in LORA.all(run).items() if len(one) >= self.min_points}
        still = [tag for tag, one in norms.items() if (one.values == one.values[0]).all()]
        zero = [tag for tag in still if "lora_B" in tag and not norms[tag].values.any()]
        bad = zero or (still if len(still) == len(norms) else [])
        if not bad:
            return
        yield Finding(
            id=self.id,
            severity="error",
            tags=tuple(bad),
            steps=(int(norms[bad[0]].steps[0]),),
            numbers={"matrices": len(bad), "of": len(norms)},
            means=(
                f"{len(zero)} of LoRA's matrices B are zero still, {zero[0].partition('/')[2]} first: the adapter"
                " changes"
                " nothing."
                if zero
                else f"{len(bad)} of LoRA's matrices have not moved: the adapter is not trained."
            ),
            advice="Make the adapter trainable (requires_grad of lora_A and lora_B, is_trainable=True when it is"
            " loaded) and"
            " build the optimizer after it is added.",
            source=self.source,
        )
