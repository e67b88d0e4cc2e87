"""Defines the metric of LoRA adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tbx_callbacks._stats.low_rank import product_norms
from tbx_callbacks._stats.norms import square_norms
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Part, Ratio, Value
from tbx_callbacks.tags import LORA_STABLE_RANK, LORA_UPDATE


@dataclass(frozen=True)
class StableRank(Value):
    """Squared Frobenius norm divided by the squared spectral norm; left out for a zero matrix."""

    square: Part
    largest: Part

    def maxes(self) -> tuple[Part, ...]:
        return (self.square, self.largest)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        square, largest = maxes
        return square / largest if square and largest else None


@dataclass(frozen=True)
class Lora(Metric):
    """Norm of each LoRA adapter's update relative to the frozen weight, and the update's stable rank.

    With the matrices `A` and `B` of an adapter, `lora/update` is `norm(scaling * B A) / norm(W)` and
    `lora/stable_rank` is `norm(B A)**2 / spectral_norm(B A)**2`, from 1 (one direction) to the rank; Hu et al. 2021
    (arXiv:2106.09685), Rudelson and Vershynin 2007 (arXiv:math/0503442). The norms come from products of the size of
    the rank in float64; `B A` is never formed. `scaling` is `alpha / r`, with rsLoRA `alpha / sqrt(r)`.

    The group is the module, and for adapters with another name than `default` also the name. With DoRA this is the
    change before the columns are normalized, without the magnitudes. With PiSSA and OLoRA `B A` starts as a part of the
    pretrained weight. A bias of B does not count. Left out: adapters with another product (AdaLoRA, BD-LoRA, KaSA,
    experts), `lora/update` for packed (4-bit) weights, `lora/stable_rank` while B is zero, and everything where ranks
    hold shards. Adapters that no optimizer trains are named in a warning when the training starts.

    Every rank computes the same numbers. Cost: one pass over the adapters and one over their frozen weights.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{LORA_UPDATE}/<module>": "", f"{LORA_STABLE_RANK}/<module>": ""}
    needs: ClassVar[frozenset[str]] = frozenset({"adapters", "whole_weights"})
    cost: ClassVar[str] = "one pass over the adapters and their frozen weights"

    def __call__(self, context: Context) -> Values:
        adapters = context.adapters
        if not adapters:
            return {}
        norms = product_norms([(adapter.a, adapter.b) for adapter in adapters])
        squares: dict[str, Tensor] = {}
        bases: dict[str, Tensor] = {}
        for adapter, (square, _) in zip(adapters, norms, strict=True):
            if adapter.weight is not None:
                squares[adapter.group] = square * adapter.scaling**2
                bases[adapter.group] = square_norms([adapter.weight])[0]
        by_group = {adapter.group: pair for adapter, pair in zip(adapters, norms, strict=True)}
        ranks = StableRank(
            {group: square for group, (square, _) in by_group.items()},
            {group: largest for group, (_, largest) in by_group.items()},
        )
        values: dict[str, Value] = {f"{LORA_STABLE_RANK}/{{group}}": ranks}
        if squares:
            values[f"{LORA_UPDATE}/{{group}}"] = Ratio(squares, bases)
        return values
