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
        steps_by_item = {index: item.every or self.every for index, item in enumerate(self.items) if _on_steps(item)}
        rules = self.live.every or self.every if self.live.active_rules() else None
        in_epochs = {index for index, cadence in steps_by_item.items() if isinstance(cadence, EveryEpochs)}
        if not in_epochs and not any(isinstance(cadence, EveryEpochs) for cadence in (rules, self.every)):
            return self
        if reducer is not None:  # ranks may have different numbers of batches
            steps_per_epoch = int(reducer.max_reduce({"steps": float(steps_per_epoch or 0)}).get("steps", 0.0)) or None
        if steps_per_epoch is not None:
            items = [replace(item, every=_in_steps(item.every, steps_per_epoch)) for item in self.items]
            live = replace(self.live, every=_in_steps(self.live.every, steps_per_epoch))
            return Cadences(items, _in_steps(self.every, steps_per_epoch) or "log", live)
        unknown = list(dict.fromkeys(self.items[index].name for index in sorted(in_epochs)))
        unknown += ["rules"] if isinstance(rules, EveryEpochs) else []
        if unknown and is_rank_zero():
            logger.warning(
                "%s: left out, because the number of steps per epoch is unknown; pass `steps_per_epoch` to TbxLoop, or"
                " set `every` to a number of steps",
                ", ".join(unknown),
            )
        return Cadences(
            [item for index, item in enumerate(self.items) if index not in in_epochs],
            "log" if isinstance(self.every, EveryEpochs) else self.every,
            NO_LIVE_RULES if isinstance(rules, EveryEpochs) else self.live,
        )


def _on_steps(item: MetricSpec) -> bool:
    return "step" in item.metric.events


def _in_steps(cadence: Cadence | None, steps_per_epoch: int) -> Cadence | None:
    return replace(cadence, steps_per_epoch=steps_per_epoch) if isinstance(cadence, EveryEpochs) else cadence
