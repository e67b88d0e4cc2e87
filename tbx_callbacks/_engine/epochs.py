"""Resolves the cadences in epochs for one training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tbx_callbacks._config.cadence import Cadence
from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._config.rule_options import NO_LIVE_RULES, LiveRuleConfig
from tbx_callbacks._config.schedule import EveryEpochs
from tbx_callbacks._distributed.rank import is_rank_zero
from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks.metrics.axis_progress import AxisProgress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cadences:
    """The metrics, the default cadence and the rules of a set."""

    items: Sequence[MetricSpec]
    every: Cadence
    live: LiveRuleConfig

    def resolve(self, steps_per_epoch: int | None, reducer: Reducer | None) -> Cadences:
        """Returns the same with the number of steps in an epoch, the same one on every rank.

        Without it, metrics and rules with a cadence in epochs are left out, with one warning. User scalars are then
        written when the trainer logs.
        """
        cadences = [item.every or self.every if _has_cadence(item) else None for item in self.items]
        rules = self.live.every or self.every
        if not any(isinstance(cadence, EveryEpochs) for cadence in (*cadences, rules, self.every)):
            return self
        if reducer is not None:  # ranks may have different numbers of batches
            steps_per_epoch = int(reducer.max_reduce({"steps": float(steps_per_epoch or 0)}).get("steps", 0.0)) or None
        if steps_per_epoch is not None:
            items = [replace(item, every=_in_steps(item.every, steps_per_epoch)) for item in self.items]
            live = replace(self.live, every=_in_steps(self.live.every, steps_per_epoch))
            return Cadences(items, _in_steps(self.every, steps_per_epoch) or "log", live)
        known = [not isinstance(cadence, EveryEpochs) for cadence in cadences]
        unknown = [item.name for item, is_known in zip(self.items, known, strict=True) if not is_known]
        unknown += ["rules"] if isinstance(rules, EveryEpochs) and self.live.active_rules() else []
        if unknown and (reducer.rank == 0 if reducer is not None else is_rank_zero()):
            logger.warning(
                "%s: left out, because the number of steps per epoch is unknown; pass `steps_per_epoch` to TbxLoop, or"
                " set `every` to a number of steps",
                ", ".join(dict.fromkeys(unknown)),
            )
        return Cadences(
            [item for item, is_known in zip(self.items, known, strict=True) if is_known],
            "log" if isinstance(self.every, EveryEpochs) else self.every,
            NO_LIVE_RULES if isinstance(rules, EveryEpochs) else self.live,
        )


def _has_cadence(item: MetricSpec) -> bool:
    return "step" in item.metric.events and not isinstance(item.metric, AxisProgress)  # it follows the others


def _in_steps(cadence: Cadence | None, steps_per_epoch: int) -> Cadence | None:
    return replace(cadence, steps_per_epoch=steps_per_epoch) if isinstance(cadence, EveryEpochs) else cadence
