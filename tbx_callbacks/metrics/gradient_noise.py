"""Defines the metric of the gradient's noise scale, which tells whether a larger batch would help."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tbx_callbacks._text import short
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context, Microbatches
from tbx_callbacks.metrics.values import Part, Sum, Unless, Value
from tbx_callbacks.tags import NOISE_BATCH_SIZE, NOISE_SCALE

_EQUAL = 1e-5  # relative difference of gradients that ranks have averaged


@dataclass(frozen=True)
class NoiseScale(Value):
    """`noise / (inverse_size * signal)`, each added over ranks.

    Left out if the signal is not positive, or if the squared norm of the gradient differs between ranks, which have
    not averaged it then.
    """

    noise: Part
    signal: Part
    inverse_size: Part
    total: Part
    negative_total: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.noise, self.signal, self.inverse_size)

    def maxes(self) -> tuple[Part, ...]:
        return (self.total, self.negative_total)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        largest, smallest = maxes[0], -maxes[1]
        noise, signal, inverse_size = sums
        is_averaged = largest - smallest <= _EQUAL * abs(largest)
        if not is_averaged or not (signal > 0 and inverse_size > 0 and math.isfinite(noise)):
            return None
        return max(0.0, noise) / (inverse_size * signal)


@dataclass(frozen=True)
class GradientNoise(Metric):
    """Simple noise scale of the gradient, `tr(Sigma) / |G|**2`, in examples, and the examples of a step.

    `G` is the gradient over all data and `Sigma` the covariance of the gradient of one example. Both come from the
    micro-batches of a step: with `c[i]` what micro-batch `i` of `b[i]` examples adds to the gradient, `w[i]` its share
    in the loss, `W = sum(w**2)`, `A = sum(|c[i]|**2)`, `C = |sum(c)|**2` and `V = sum(w[i]**2 / b[i])`,

    `|G|**2 = (C - A) / (1 - W)`,    `tr(Sigma) = (A - W * C) / (V * (1 - W))`.

    These are the unbiased estimates of McCandlish et al. 2018, An Empirical Model of Large-Batch Training, appendix
    A.1 (arXiv:1812.06162), for micro-batches of any size. Each is noisy, so `C - A`, `A - W * C` and `V` are averaged
    over points by an exponential average before the division. With noise scale `N`, a batch of `B` examples needs about
    `1 + N / B` times the fewest possible steps, and `1 + B / N` times the fewest possible examples. `N` holds for these
    weights: it usually grows during a training. It is the simple scale, which takes all directions for equally curved.

    A common factor of all micro-batches (loss scale, division of the loss) has no effect. All of them count alike,
    except under the Hugging Face Trainer where the loss is divided by `num_items_in_batch`: there they count by their
    labels. Where another loss weights them by their tokens, this adds about `b * v**2` to `N`, where `v` is the
    relative standard deviation of their weights. Gradients are those before clipping, of parameters that optimizers
    train.

    The averages begin anew in a training that is resumed: there the scale is left out until `1 / (1 - decay)` points
    were seen, 20 by default.

    Under DistributedDataParallel each rank's share counts too, so several ranks need no accumulation. With one rank and
    one micro-batch a step it is left out, with one line in the log; also for sharded gradients (FSDP, ZeRO, tensor
    parallelism), where no rank sees the gradient of its own batch, and where ranks do not average gradients in the
    backward pass. It needs the samples of each micro-batch: in a loop, `end_step(samples=...)`.
    Cost: two passes over the gradients in each micro-batch of a due step.
    """

    decay: float = 0.95
    """Weight of the earlier points in the averages: 0.95 averages over about 20 points."""

    tags: ClassVar[Mapping[str, str]] = {NOISE_SCALE: "examples", NOISE_BATCH_SIZE: "examples"}
    needs: ClassVar[frozenset[str]] = frozenset({"microbatches", "batches"})
    cost: ClassVar[str] = "two passes over the gradients in each micro-batch"

    def __post_init__(self) -> None:
        if isinstance(self.decay, bool) or not isinstance(self.decay, (int, float)) or not 0 <= self.decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {short(self.decay)}; 0.95 is usual")

    def __call__(self, context: Context) -> Values:
        step = context.microbatches
        if step is None:
            if context.run.rank is None:
                return {}
            # Other ranks may know theirs: what lacks a rank is left out on all of them.
            unknown: Value = Unless(NoiseScale(0.0, 0.0, 0.0, 0.0, 0.0), 1.0)
            return {NOISE_SCALE: unknown, NOISE_BATCH_SIZE: Unless(Sum(0.0), 1.0)}
        noise, signal, inverse_size = self._averaged(step, context.state)
        scale = NoiseScale(noise, signal, inverse_size, step.total, -step.total)
        return {
            NOISE_SCALE: Unless(scale, float(self._lacks_points(context))),
            NOISE_BATCH_SIZE: Unless(Sum((step.samples * (step.weights > 0)).sum()), 0.0),
        }

    def _lacks_points(self, context: Context) -> bool:
        """Counts the points; returns whether those of a resumed training are too few to go on with the curve."""
        context.state["seen"] = seen = context.state.get("seen", 0) + 1
        return context.run.finished_steps > 0 and seen < round(1 / (1 - self.decay))

    def _averaged(self, step: Microbatches, state: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The estimates, averaged over the points so far; a point without finite gradients to compare is left out."""
        new = estimates(step)
        is_known = torch.stack([torch.isfinite(each) for each in new]).all()
        is_known &= (step.weights > 0).sum() * step.ranks > 1
        for name, now in zip(
            ("noise", "signal", "inverse_size", "points"), (*new, torch.ones_like(new[0])), strict=True
        ):
            before = state.get(name, torch.zeros_like(now))
            state[name] = torch.where(is_known, self.decay * before + (1 - self.decay) * now, before)
        # The bias of the first points cancels in the ratio of noise and signal.
        return state["noise"], state["signal"], state["inverse_size"] / state["points"]


def estimates(step: Microbatches) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's parts of `A - W * C`, of `C - A` and of `V`, up to a common factor of the first two."""
    squares = torch.where(step.weights > 0, step.squares, 0.0).sum() / step.ranks**2
    of_weights, of_sizes = step.weights.square().sum(), (step.weights.square() / step.samples).sum()
    return squares - of_weights * step.total, step.total / step.ranks - squares, of_sizes
