"""The engine: a training's beginning and end, and each step's way to the sink as one batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch.distributed as dist
from torch import Tensor

from tbx_callbacks._config.live_rules import NO_LIVE_RULES, LiveRuleConfig
from tbx_callbacks._config.metric_spec import Cadence, MetricSpec
from tbx_callbacks._config.schedule import never
from tbx_callbacks._distributed.rank import in_group, is_rank_zero, world_size
from tbx_callbacks._distributed.reducer import Reducer, join
from tbx_callbacks._engine.actions import Action
from tbx_callbacks._engine.best import BestValues
from tbx_callbacks._engine.control import Control
from tbx_callbacks._engine.counters import Counters, Stopwatch
from tbx_callbacks._engine.guard import Guard
from tbx_callbacks._engine.plan import families, follow_other_metrics, plan, schedule_of
from tbx_callbacks._engine.publisher import Publisher
from tbx_callbacks._engine.recorder import StepRecorder
from tbx_callbacks._engine.runner import MetricRunner
from tbx_callbacks._engine.support import supported_metrics
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._engine.user_scalars import UserScalars
from tbx_callbacks._model.access import ModelAccess
from tbx_callbacks._model.amp import loss_scale
from tbx_callbacks._model.outputs import Predictions
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.metrics.values import StepInfo, Value
from tbx_callbacks.writers.base import Writer

logger = logging.getLogger(__name__)

_PATIENCE, _SHORT_PATIENCE = 30.0, 5.0  # seconds that the end of a training waits for other ranks; of one that failed


class Engine:
    """Runs the metrics of a set.

    An adapter calls, for every optimizer step: `begin_step`, then perhaps `batch`, `before_clip` and `clipped`; the
    measurement itself happens in the optimizer's own post hook; `publish` or `logged` hand the step to the sink.

    Args:
        items: the metrics.
        every: cadence of items without one.
        strict: raise errors of metrics instead of switching them off.
        sink: where batches go.
        stopwatch: times the training.
        budget: share of the training time that all this may take.
        live: rules that are asked while the run trains.
    """

    def __init__(
        self,
        items: Sequence[MetricSpec],
        *,
        every: Cadence,
        strict: bool,
        writer: Writer,
        stopwatch: Stopwatch | None = None,
        budget: float | None = None,
        live: LiveRuleConfig = NO_LIVE_RULES,
    ) -> None:
        self.publisher = Publisher(writer)
        self.stopwatch = stopwatch or Stopwatch()
        self._items, self._every, self._strict = tuple(items), every, strict
        self._guard = Guard(strict=strict, stopwatch=self.stopwatch)
        self._counters = Counters(self.stopwatch)
        # Numbers that the trainer logs before training (an evaluation) are taken too.
        early = plan([item for item in self._items if item.select is None], every, (), never, {})
        self._runner = MetricRunner(early, strict=strict, clock=self.stopwatch.clock)
        self._share, self._live = budget, live
        self._control = Control(self.publisher, self._runner, self.stopwatch, share=None, live=NO_LIVE_RULES)
        self._recorder: StepRecorder | None = None
        self._best = BestValues({})
        self._run = RunInfo()
        self._user_scalars = UserScalars()
        self._counts = True
        self.labels: Any = None
        """Labels of the micro-batch at work, where an adapter has seen them before the model's forward pass."""
        self.wants_labels = False
        """Whether a metric of this run reads them."""

    # -- a run begins and ends -------------------------------------------------------------------------------------

    def start(self, info: TrainingInfo, before: tuple[str, int] | None = None) -> None:
        """Resolves the selections for this model and hooks into the optimizers.

        Args:
            setup: what the adapter knows.
            before: the folder of a run that is resumed, and the step after which.

        Raises:
            ConfigError: a regex matches nothing, or two metrics would write the same tag.
        """
        self.detach()
        self.publisher.start(reducer := join())
        self._counts = reducer is not None or world_size() == 1  # or batches would be one rank's share
        access = ModelAccess(
            info.model, info.optimizers, reducer.min_reduce if reducer is not None else None, info.deepspeed
        )
        items = supported_metrics(self._items, info, access, reducer)
        metric_runs = plan(
            items, self._every, access.parameters, info.log_schedule, access.parameters_by_optimizer, reducer
        )
        follow_other_metrics(metric_runs, info.log_schedule)
        self._runner = MetricRunner(
            metric_runs, strict=self._strict, clock=self.stopwatch.clock, shared=reducer is not None
        )
        self._control = Control(self.publisher, self._runner, self.stopwatch, share=self._share, live=self._live)
        self.wants_labels = "predictions" in self.needs
        self._user_scalars.schedule = schedule_of(self._every, info.log_schedule)
        scaler = info.scaler if "loss_scale" in self.needs else None
        self._counters = Counters(
            self.stopwatch, loss_scale(scaler), Predictions(info.model, info.predictions_remedy, warns=is_rank_zero())
        )
        self.stopwatch.cancel_waiting()
        for metric_run in metric_runs:
            metric_run.last_totals = self._counters.totals()  # the stopwatch runs on over trainings
        self._best = BestValues(info.larger_is_better)
        for logs in info.earlier_logs:
            self._best.update(logs)
        self._run = RunInfo(
            info.hparams,
            info.texts,
            families(metric_runs),
            self._best.values,
            rank=dist.get_rank() if in_group() else None,
        )
        self._recorder = StepRecorder(
            info,
            access,
            self._runner,
            self._run,
            publisher=self.publisher,
            counters=self._counters,
            user_scalars=self._user_scalars,
            guard=self._guard,
            spread=_spread(access, reducer),
        )
        self._control.start_rules(self._every, info.log_schedule, before, whole=self._counts, strict=self._strict)
        self.publisher.write(0, self._runner.run_event(Context("start", 0, self._run)).finish_local({}))
        self.stopwatch.resume()

    def end(self, step: int, *, succeeded: bool) -> None:
        """Publishes what is left and writes how the run ended. Numbers that the trainer logs later are still taken."""
        self.flush_step()
        self.detach()
        self.stopwatch.pause()
        patience = _PATIENCE if succeeded else _SHORT_PATIENCE
        if not self.publisher.drain(patience):
            logger.warning("other ranks did not answer in %.0f s at the end; what waits for them is lost", patience)
        self.publisher.close_live_rules(step, patience)
        self._run = replace(self._run, succeeded=succeeded)
        ended = self._runner.run_event(Context("end", step, self._run))
        self.publisher.write(step, {**self._user_scalars.pop_final(), **ended.finish_local({})})
        self.publisher.writer.flush()

    def detach(self) -> None:
        """Removes every hook."""
        if self._recorder is not None:
            self._recorder.detach()
            self._recorder = None

    def suspend(self) -> None:
        """Removes every hook of a training that may have been left by an exception; a next step brings them back."""
        if self._recorder is not None:
            self._recorder.suspend()

    @property
    def needs(self) -> frozenset[str]:
        """What the metrics need at any step of the run."""
        return self._runner.needs

    # -- one step --------------------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """A step begins; `step` is the number it will have when it is finished (1-based)."""
        recorder = self._recorder
        if self.publisher.buffered is not None or (recorder is not None and recorder.end_of_step.pending):
            self.flush_step()
        self.stopwatch.resume()
        if recorder is not None:
            recorder.begin_step(step)

    def end_microbatch(self, *, is_step: bool) -> None:
        """A pass of the trainer's loop is over; `is_step`: it counts as a step even if no optimizer was called."""
        recorder = self._recorder
        if recorder is not None and (recorder.due or recorder.watches_loss_scale):
            recorder.end_microbatch(is_step=is_step)

    def record_batch(self, *, loss: Tensor | None, samples: int, tokens: Tensor | None) -> Tensor | None:
        """One micro-batch went through the model; returns a copy of its loss, None where it is not counted."""
        if self._counts and self._counters.counting:
            try:
                return self._counters.record_batch(loss=loss, samples=samples, tokens=tokens)
            except Exception as error:
                self._counters.counting = False
                self._guard.report("counting micro-batches", self._step, error)
        return None

    def record_outputs(self, outputs: Any, labels: Any) -> None:
        """What the model returned for a micro-batch of training, and its labels: those of `labels` when left out."""
        if labels is None:
            labels, self.labels = self.labels, None  # of one forward pass: who knows what a second one is about
        with self.guard_outputs():
            if "losses" in self.needs:
                self._counters.extra_losses.add(outputs)
            if "predictions" in self.needs:
                self._counters.predictions.add(outputs, labels)

    def guard_outputs(self) -> AbstractContextManager[None]:
        """Guards the training from errors while an adapter looks at what a model returned."""
        return self._guard("looking at outputs", self._step)

    def before_clip(
        self, scale: Tensor | None = None, *, optimizer: str | None = None, max_norm: float | None = None
    ) -> None:
        """All gradients of this step are there and not yet clipped.

        Args:
            scale: the loss scale that they still carry.
            optimizer: name of the optimizer whose step comes; all of them when left out.
            max_norm: the limit, where the trainer will clip by the norm of all these gradients.
        """
        if self._recorder is not None:
            self._recorder.before_clip(scale, optimizer, max_norm)

    def record_clipping(self, norm: Tensor | float, max_norm: float) -> None:
        """The trainer clipped this step's gradients, which had this norm."""
        if self._recorder is not None:
            self._recorder.record_clipping(norm, max_norm)

    def log(self, tag: str, value: Tensor | float) -> None:
        """Adds a scalar of the user's own to the mean that is written under `tag` at the next point.

        Raises:
            ValueError: the tag would be rewritten by TensorBoard, belongs to a metric, or the value is not a scalar.
        """
        if self._runner.owns_tag(tag):
            raise ValueError(f"a tag of your own must not be one that a metric writes, got {tag!r}; choose another")
        self._user_scalars.add(tag, value)

    # -- publishing ------------------------------------------------------------------------------------------------

    def flush_step(self, step_info: StepInfo | None = None) -> None:
        """Hands the step's values to the writer. `step_info` are numbers that the trainer gave for it."""
        recorder = self._recorder
        if self.publisher.buffered is None and (recorder is None or not recorder.end_of_step.pending):
            return  # a step with nothing due, as most are
        with self._guard("publishing", self._step):
            if recorder is not None:
                recorder.finish_step()
            self.publisher.flush(step_info)
        self._control.apply_budget(self._step)

    def record_logs(
        self,
        step: int,
        logs: Mapping[str, Number | str],
        step_info: StepInfo | None = None,
        shared: Mapping[str, Value] | None = None,
    ) -> None:
        """The trainer logged numbers (by tag) after `step` steps; they travel with what was measured at that step.

        Args:
            step: steps taken.
            logs: numbers of the whole run.
            facts: see `publish`.
            shared: this rank's part of numbers of this very step, perhaps none; None on all ranks or on none.
        """
        with self._guard("publishing", step):
            user_scalars = shared is not None and self._runner.writes_logs
            if self._recorder is not None and self._counts and (user_scalars or self._control.rule_schedule(step)):
                self._recorder.step_values(step).add(shared or {})
            self._best.update(logs)
            numbers = self._runner.run_event(Context("log", step, self._run, logs=logs))
            self._runner.drop_logged_tags(numbers.tags)
            if self._recorder is not None:
                self._recorder.finish_step()
            else:
                numbers.add(self._user_scalars.pop())  # they wait for a point that does not come: no training is on
            self.publisher.flush_with_logs(step, numbers, step_info)
        self._control.apply_budget(self._step)

    def poll_actions(self, step: int) -> Action:
        """Acts upon what was decided, now that `step` is finished; what an adapter has to do, the same on all ranks."""
        if self.publisher.messages.pending:
            with self._guard("acting upon decisions", step):
                return self._control.apply_messages(step)
        return Action.NONE

    @property
    def has_due_metrics(self) -> bool:
        """Whether a metric is due in this step."""
        return self._recorder is not None and bool(self._recorder.due)

    @property
    def _step(self) -> int:
        return self._recorder.step if self._recorder is not None else 0


def _spread(access: ModelAccess, reducer: Reducer | None) -> bool:
    """Whether any rank holds pieces of tensors."""
    return reducer is not None and reducer.max_reduce({"spread": float(access.is_sharded)}).get("spread") == 1
