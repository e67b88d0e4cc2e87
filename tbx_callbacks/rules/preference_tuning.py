"""Defines the rules that audit reinforcement learning and preference tuning, on the tags that trl writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import CHOSEN, ENTROPY, KL, POLICY, REJECTED, TRUNCATED, ZERO_STD, Need
from tbx_callbacks.rules.series_stats import ends, finite, median, noise
from tbx_callbacks.runs.series import Run, Series


@dataclass(frozen=True)
class EntropyCollapse(Rule):
    """The entropy of the policy fell to a small share of its initial value."""

    id: ClassVar[str] = "entropy_collapse"
    code: ClassVar[str] = "TBX-RL-001"
    needs: ClassVar[tuple[Need, ...]] = (ENTROPY, POLICY)
    source: ClassVar[str] = (
        "Cui et al. 2025, The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models,"
        " arXiv:2505.22617"
    )
    compares_with_start: ClassVar[bool] = True

    min_points: int = 10
    left: float = 0.2  # of the initial entropy

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = ENTROPY.first(run)
        if entry is None or not POLICY.all(run) or len(series := finite(entry[1])) < self.min_points:
            return
        start, end = ends(series.values)
        if start <= 0 or end >= self.left * start:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(entry[0],),
            steps=(_first(series, series.values < self.left * start), int(series.steps[-1])),
            numbers={"start": start, "end": end},
            means=f"The entropy of the policy fell from {start:.3g} to {end:.3g}."
            " Samples of one prompt are nearly alike, so that there is little left to choose from.",
            advice="Read samples of one prompt. If they are alike, lower the learning rate, sample at a higher"
            " temperature, or add an entropy bonus.",
            source=self.source,
        )


@dataclass(frozen=True)
class KlRunaway(Rule):
    """The KL divergence from the reference model grows faster and faster."""

    id: ClassVar[str] = "kl_runaway"
    code: ClassVar[str] = "TBX-RL-002"
    needs: ClassVar[tuple[Need, ...]] = (KL,)
    source: ClassVar[str] = (
        "Gao, Schulman and Hilton 2022, Scaling Laws for Reward Model Overoptimization, arXiv:2210.10760"
    )

    min_points: int = 10
    growth: float = 5.0  # last points over those of the middle; steady growth gives 2
    limit: float = 1.0  # nats; smaller divergences are harmless

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = KL.first(run)
        if entry is None or len(series := finite(entry[1])) < self.min_points:
            return
        third = len(series) // 3
        middle, last = median(series.values[third : 2 * third]), ends(series.values)[1]
        if last <= self.limit or last <= self.growth * middle:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(entry[0],),
            steps=(_first(series, series.values > max(self.limit, self.growth * middle)), int(series.steps[-1])),
            numbers={"middle": middle, "last": last},
            means=f"The KL divergence from the reference model is {last:.3g}; it was {middle:.3g} in the middle of the"
            " run. The model leaves the reference faster and faster.",
            advice="Compare samples with those of the reference model. If they are worse, raise beta or lower the"
            " learning rate.",
            source=self.source,
        )


@dataclass(frozen=True)
class NoRewardVariance(Rule):
    """In most groups all completions have the same reward, which gives no gradient."""

    id: ClassVar[str] = "no_reward_variance"
    code: ClassVar[str] = "TBX-RL-003"
    needs: ClassVar[tuple[Need, ...]] = (ZERO_STD,)
    source: ClassVar[str] = "Yu et al. 2025, DAPO, section 3.2 (dynamic sampling), arXiv:2503.14476"

    min_points: int = 5
    share: float = 0.8  # of the groups, median of the second half of the points

    def __call__(self, run: Run) -> Iterator[Finding]:
        found = _high_share(run, ZERO_STD, self.min_points, self.share)
        if found is None:
            return
        tag, share, steps = found
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(tag,),
            steps=steps,
            numbers={"share": share},
            means=f"In {share:.0%} of the groups all completions have the same reward. These groups give no gradient.",
            advice="Check that the reward function can tell completions apart. If it can, leave out prompts that are"
            " always or never solved, or sample more completions of a prompt.",
            source=self.source,
        )


@dataclass(frozen=True)
class LikelihoodFalls(Rule):
    """The log-probabilities of chosen and of rejected answers both fall."""

    id: ClassVar[str] = "likelihood_falls"
    code: ClassVar[str] = "TBX-RL-004"
    needs: ClassVar[tuple[Need, ...]] = (CHOSEN, REJECTED)
    source: ClassVar[str] = (
        "Razin et al. 2024, Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization,"
        " arXiv:2410.08847"
    )
    compares_with_start: ClassVar[bool] = True

    min_points: int = 10
    fall: float = 0.2  # as a share of the initial log-probability; a few percent are usual
    deviations: float = 3.0  # the same in standard deviations of the noise

    def __call__(self, run: Run) -> Iterator[Finding]:
        entries = CHOSEN.first(run), REJECTED.first(run)
        if entries[0] is None or entries[1] is None:
            return
        (chosen_tag, chosen), (rejected_tag, rejected) = entries[0], entries[1]
        if not self._falls(chosen) or not self._falls(rejected):
            return
        (start, end), (rejected_start, rejected_end) = (ends(finite(one).values) for one in (chosen, rejected))
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(chosen_tag, rejected_tag),
            steps=(int(chosen.steps[0]), int(chosen.steps[-1])),
            numbers={
                "chosen_start": start,
                "chosen_end": end,
                "rejected_start": rejected_start,
                "rejected_end": rejected_end,
            },
            means=f"The log-probability of chosen answers fell from {start:.4g} to {end:.4g}, that of rejected answers"
            f" from {rejected_start:.4g} to {rejected_end:.4g}. The probability moves to answers that are neither.",
            advice="Read samples of the model. If they got worse, add a loss on the chosen answers (rpo_alpha), raise"
            " beta, or lower the learning rate.",
            source=self.source,
        )

    def _falls(self, full_series: Series) -> bool:
        values = finite(full_series).values
        if len(values) < self.min_points:
            return False
        start, end = ends(values)
        return start - end > max(self.fall * abs(start), self.deviations * noise(values))


@dataclass(frozen=True)
class CompletionsTruncated(Rule):
    """Many completions end at the length limit."""

    id: ClassVar[str] = "completions_truncated"
    code: ClassVar[str] = "TBX-RL-005"
    needs: ClassVar[tuple[Need, ...]] = (TRUNCATED,)
    source: ClassVar[str] = "Yu et al. 2025, DAPO, section 3.4 (overlong completions), arXiv:2503.14476"

    min_points: int = 5
    share: float = 0.5  # of the completions, median of the second half of the points

    def __call__(self, run: Run) -> Iterator[Finding]:
        found = _high_share(run, TRUNCATED, self.min_points, self.share)
        if found is None:
            return
        tag, share, steps = found
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(tag,),
            steps=steps,
            numbers={"share": share},
            means=f"{share:.0%} of the completions are cut at the length limit. Their reward is that of an unfinished"
            " answer.",
            advice="Read a truncated completion to see whether the model can end its answer. If it can, raise"
            " max_completion_length, or mask truncated completions (mask_truncated_completions).",
            source=self.source,
        )


def _high_share(run: Run, need: Need, min_points: int, limit: float) -> tuple[str, float, tuple[int, int]] | None:
    """Returns a share that is high in the second half of a run: its tag, its median there, and its first and last step.

    None if it is below the limit, or has too few points.
    """
    entry = need.first(run)
    if entry is None or len(series := finite(entry[1])) < min_points:
        return None
    share = median(series.values[len(series) // 2 :])
    if share < limit:
        return None
    return entry[0], share, (_first(series, series.values >= limit), int(series.steps[-1]))


def _first(series: Series, holds: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
    """Returns the first step at which a condition holds."""
    return int(series.steps[int(holds.argmax())])
