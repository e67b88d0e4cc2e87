"""Defines the rule that finds LoRA adapters that do not train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks._text import count
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import LORA, LORA_UPDATES, Need
from tbx_callbacks.runs.series import Run
from tbx_callbacks.tags import LORA_UPDATE, WEIGHT_NORM


@dataclass(frozen=True)
class LoraNotTraining(Rule):
    """The update of LoRA adapters is still zero, its initial value, or no LoRA matrix changes."""

    id: ClassVar[str] = "lora_not_training"
    code: ClassVar[str] = "TBX-LORA-001"
    needs: ClassVar[tuple[Need, ...]] = (LORA,)
    source: ClassVar[str] = "Hu et al. 2021, LoRA, section 4.1 (B starts at zero), arXiv:2106.09685"

    min_points: int = 5

    def __call__(self, run: Run) -> Iterator[Finding]:
        read = LORA.all(run) | LORA_UPDATES.all(run)
        norms = {tag: series for tag, series in read.items() if len(series) >= self.min_points}
        still = [tag for tag, series in norms.items() if (series.values == series.values[0]).all()]
        zero = [tag for tag in still if _starts_at_zero(tag) and not norms[tag].values.any()]
        untrained = zero or (still if len(still) == len(norms) else [])
        if not untrained:
            return
        layers = count(len({*map(_layer, zero)}), "layer")
        yield Finding(
            id=self.id,
            severity="error",
            tags=tuple(untrained),
            steps=(int(norms[untrained[0]].steps[0]),),
            numbers={"series": len(untrained), "of": len(norms)},
            means=(
                f"The LoRA update B A is still zero in {layers}, starting with {_layer(zero[0])}."
                " The adapter has no effect there."
                if zero
                else "None of the LoRA weights has changed. The adapter is not trained."
            ),
            advice="Create the optimizer after the adapter was added. Then check that lora_A and lora_B have"
            " requires_grad; an adapter that is loaded needs is_trainable=True. An adapter that is not active stays"
            " at zero.",
            source=self.source,
        )


def _starts_at_zero(tag: str) -> bool:
    return tag.startswith(LORA_UPDATE) or (tag.startswith(WEIGHT_NORM) and "lora_B" in tag)


def _layer(tag: str) -> str:
    return tag.removeprefix("lora/").partition("/")[2].partition(".lora_B")[0]
