"""Defines `Planner`, which resolves the metrics for the model of one training, and again when the model has changed."""

from __future__ import annotations

import logging

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._engine.epochs import Cadences
from tbx_callbacks._engine.metric_plan import MetricRun, plan
from tbx_callbacks._engine.metric_runner import MetricRunner
from tbx_callbacks._engine.supported_metrics import supported_metrics
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks._model.sharding import find_sharding
from tbx_callbacks._model.sharding.base import Sharding

logger = logging.getLogger(__name__)


class Planner:
    """Reads the model and plans the metrics.

    Args:
        cadences: the metrics of the set.
        info: describes the training.
        reducer: reduces over ranks; None with one rank.
        is_alone: whether this process trains alone.
        warns: whether this rank logs warnings.
    """

    def __init__(
        self, cadences: Cadences, info: TrainingInfo, reducer: Reducer | None, *, is_alone: bool, warns: bool
    ) -> None:
        self._cadences, self._info, self._reducer = cadences, info, reducer
        self._is_alone, self._warns = is_alone, warns
        names = list(info.optimizers)
        self._without_prefix = names[0] if len(names) == 1 else None
        self._sharding: Sharding = info.sharding or find_sharding(info.model)

    def plan(self) -> tuple[ModelAccess, list[MetricRun]]:
        """Returns access to the model as it is now, and the metric runs.

        Raises:
            ConfigError: a regex matches nothing, or two metrics would write the same tag.
        """
        info, reducer = self._info, self._reducer
        access = ModelAccess(
            info.model, info.optimizers, self._sharding, reducer.min_reduce if reducer is not None else None
        )
        metric_runs = plan(
            supported_metrics(self._cadences.items, info, access, reducer, is_alone=self._is_alone, warns=self._warns),
            self._cadences.every,
            access.parameters,
            info.log_schedule,
            access.parameters_by_optimizer,
            reducer,
            without_prefix=self._without_prefix,
        )
        return access, metric_runs

    def plan_again(self, runner: MetricRunner) -> tuple[ModelAccess, bool]:
        """Updates the metrics of `runner` for the model as it is now.

        Returns:
            Access to the model, and whether any rank holds shards.
        """
        if not self._sharding.frees_gradients:  # TorchSharding: the model may be sharded now
            self._sharding = find_sharding(self._info.model)
        try:
            access, metric_runs = self.plan()
        except ConfigError as error:
            # The set was valid when the training started: an item that matches nothing any more is left out.
            items = [item for item in self._cadences.items if item.select is None or item.select.include is None]
            if self._reducer is None or self._reducer.rank == 0:
                logger.warning("metrics with include or by patterns are left out: the model has changed; %s", error)
            self._cadences = Cadences(items, self._cadences.every, self._cadences.live)
            access, metric_runs = self.plan()
        runner.update(metric_runs)
        return access, self.any_rank_sharded(access)

    def any_rank_sharded(self, access: ModelAccess) -> bool:
        """Whether any rank holds shards of tensors."""
        reducer = self._reducer
        return reducer is not None and reducer.max_reduce({"spread": float(access.is_sharded)}).get("spread") == 1
