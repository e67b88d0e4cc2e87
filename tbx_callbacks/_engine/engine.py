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
        sink: Writer,
        stopwatch: Stopwatch | None = None,
        budget: float | None = None,
        live: LiveRuleConfig = NO_LIVE_RULES,
    ) -> None:
        self.publisher = Publisher(sink)
        self.stopwatch = stopwatch or Stopwatch()
        self._items, self._every, self._strict = tuple(items), every, strict
        self._safely = Guard(strict=strict, stopwatch=self.stopwatch)
        self._counters = Counters(self.stopwatch)
        # Numbers that the trainer logs before training (an evaluation) are taken too.
        early = plan([item for item in self._items if item.select is None], every, (), never, {})
        self._program = MetricRunner(early, strict=strict, clock=self.stopwatch.clock)
        self._share, self._live = budget, live
        self._steering = Control(self.publisher, self._program, self.stopwatch, share=None, live=NO_LIVE_RULES)
        self._recorder: StepRecorder | None = None
        self._best = BestValues({})
        self._run = RunInfo()
        self._own = UserScalars()
        self._counts = True
        self.labels: Any = None
        """Labels of the micro-batch at work, where an adapter has seen them before the model's forward pass."""
        self.wants_labels = False
        """Whether a metric of this run reads them."""

    # -- a run begins and ends -------------------------------------------------------------------------------------

    def start(self, setup: TrainingInfo, before: tuple[str, int] | None = None) -> None:
        """Resolves the selections for this model and hooks into the optimizers.

        Args:
            setup: what the adapter knows.
            before: the folder of a run that is resumed, and the step after which.

        Raises:
            ConfigError: a regex matches nothing, or two metrics would write the same tag.
        """
        self.detach()
        self.publisher.rendezvous(ranks := join())
        self._counts = ranks is not None or world_size() == 1  # or batches would be one rank's share
        source = ModelAccess(setup.model, setup.optimizers, ranks.lowest if ranks is not None else None, setup.zero)
        items = supported_metrics(self._items, setup, source, ranks)
        entries = plan(items, self._every, source.parameters, setup.log_schedule, source.parameters_by_optimizer, ranks)
        follow_other_metrics(entries, setup.log_schedule)
        self._program = MetricRunner(entries, strict=self._strict, clock=self.stopwatch.clock, shared=ranks is not None)
        self._steering = Control(self.publisher, self._program, self.stopwatch, share=self._share, live=self._live)
        self.wants_labels = "predictions" in self.needs
        self._own.schedule = schedule_of(self._every, setup.log_schedule)
        scaler = setup.scaler if "loss_scale" in self.needs else None
        self._counters = Counters(
            self.stopwatch, loss_scale(scaler), Predictions(setup.model, setup.predictions_remedy, warns=is_rank_zero())
        )
        self.stopwatch.forget_wait()
        for entry in entries:
            entry.last = self._counters.totals()  # the stopwatch runs on over trainings
        self._best = BestValues(setup.larger_is_better)
        for logs in setup.earlier_logs:
            self._best.update(logs)
        self._run = RunInfo(
            setup.hparams,
            setup.texts,
            families(entries),
            self._best.values,
            rank=dist.get_rank() if in_group() else None,
        )
        self._recorder = StepRecorder(
            setup,
            source,
            self._program,
            self._run,
            publisher=self.publisher,
            counters=self._counters,
            own=self._own,
            safely=self._safely,
            spread=_spread(source, ranks),
        )
        self._steering.watch(self._every, setup.log_schedule, before, whole=self._counts, strict=self._strict)
        self.publisher.write(0, self._program.call(Context("start", 0, self._run)).numbers({}))
        self.stopwatch.resume()

    def end(self, step: int, *, succeeded: bool) -> None:
        """Publishes what is left and writes how the run ended. Numbers that the trainer logs later are still taken."""
        self.publish()
        self.detach()
        self.stopwatch.pause()
        patience = _PATIENCE if succeeded else _SHORT_PATIENCE
        if not self.publisher.drain(patience):
            logger.warning("other ranks did not answer in %.0f s at the end; what waits for them is lost", patience)
        self.publisher.judge_last(step, patience)
        self._run = replace(self._run, succeeded=succeeded)
        ended = self._program.call(Context("end", step, self._run))
        self.publisher.write(step, {**self._own.numbers(), **ended.numbers({})})
        self.publisher.sink.flush()

    def detach(self) -> None:
        """Removes every hook."""
        if self._recorder is not None:
            self._recorder.detach()
            self._recorder = None

    def let_go(self) -> None:
        """Removes every hook of a training that may have been left by an exception; a next step brings them back."""
        if self._recorder is not None:
            self._recorder.let_go()

    @property
    def needs(self) -> frozenset[str]:
        """What the metrics need at any step of the run."""
        return self._program.needs

    # -- one step --------------------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """A step begins; `step` is the number it will have when it is finished (1-based)."""
        recorder = self._recorder
        if self.publisher.held is not None or (recorder is not None and recorder.late.waiting):
            self.publish()
        self.stopwatch.resume()
        if recorder is not None:
            recorder.begin(step)

    def pass_ended(self, *, is_step: bool) -> None:
        """A pass of the trainer's loop is over; `is_step`: it counts as a step even if no optimizer was called."""
        recorder = self._recorder
        if recorder is not None and (recorder.due or recorder.scales):
            recorder.pass_ended(is_step=is_step)

    def batch(self, *, loss: Tensor | None, samples: int, tokens: Tensor | None) -> Tensor | None:
        """One micro-batch went through the model; returns a copy of its loss, None where it is not counted."""
        if self._counts and self._counters.counting:
            try:
                return self._counters.batch(loss=loss, samples=samples, tokens=tokens)
            except Exception as error:
                self._counters.counting = False
                self._safely.failed("counting micro-batches", self._step, error)
        return None

    def outputs(self, outputs: Any, labels: Any) -> None:
        """What the model returned for a micro-batch of training, and its labels: those of `labels` when left out."""
        if labels is None:
            labels, self.labels = self.labels, None  # of one forward pass: who knows what a second one is about
        with self.looking():
            if "losses" in self.needs:
                self._counters.extra_losses.add(outputs)
            if "predictions" in self.needs:
                self._counters.predictions.add(outputs, labels)

    def looking(self) -> AbstractContextManager[None]:
        """Guards the training from errors while an adapter looks at what a model returned."""
        return self._safely("looking at outputs", self._step)

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

    def clipped(self, norm: Tensor | float, max_norm: float) -> None:
        """The trainer clipped this step's gradients, which had this norm."""
        if self._recorder is not None:
            self._recorder.clipped(norm, max_norm)

    def log(self, tag: str, value: Tensor | float) -> None:
        """Adds a scalar of the user's own to the mean that is written under `tag` at the next point.

        Raises:
            ValueError: the tag would be rewritten by TensorBoard, belongs to a metric, or the value is not a scalar.
        """
        if self._program.reserves(tag):
            raise ValueError(f"a tag of your own must not be one that a metric writes, got {tag!r}; choose another")
        self._own.add(tag, value)

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, facts: StepInfo | None = None) -> None:
        """Hands the measured step to the sink. `facts` are numbers that the trainer gave for it, as `clip_factor`."""
        recorder = self._recorder
        if self.publisher.held is None and (recorder is None or not recorder.late.waiting):
            return  # a step with nothing due, as most are
        with self._safely("publishing", self._step):
            if recorder is not None:
                recorder.finish()
            self.publisher.publish(facts)
        self._steering.keep_budget(self._step)

    def logged(
        self,
        step: int,
        logs: Mapping[str, Number | str],
        facts: StepInfo | None = None,
        shared: Mapping[str, Value] | None = None,
    ) -> None:
        """The trainer logged numbers (by tag) after `step` steps; they travel with what was measured at that step.

        Args:
            step: steps taken.
            logs: numbers of the whole run.
            facts: see `publish`.
            shared: this rank's part of numbers of this very step, perhaps none; None on all ranks or on none.
        """
        with self._safely("publishing", step):
            own = shared is not None and self._program.logs
            if self._recorder is not None and self._counts and (own or self._steering.asks(step)):
                self._recorder.batch(step).add(shared or {})
            self._best.update(logs)
            numbers = self._program.call(Context("log", step, self._run, logs=logs))
            self._program.give_way(numbers.tags)
            if self._recorder is not None:
                self._recorder.finish()
            else:
                numbers.add(self._own.take())  # they wait for a point that does not come: no training is on
            self.publisher.publish_with(step, numbers, facts)
        self._steering.keep_budget(self._step)

    def verdict(self, step: int) -> Action:
        """Acts upon what was decided, now that `step` is finished; what an adapter has to do, the same on all ranks."""
        if self.publisher.decisions.awaited:
            with self._safely("acting upon decisions", step):
                return self._steering.act(step)
        return Action.NONE

    @property
    def measures(self) -> bool:
        """Whether a metric is due in this step."""
        return self._recorder is not None and bool(self._recorder.due)

    @property
    def _step(self) -> int:
        return self._recorder.step if self._recorder is not None else 0


def _spread(source: ModelAccess, ranks: Reducer | None) -> bool:
    """Whether any rank holds pieces of tensors."""
    return ranks is not None and ranks.largest({"spread": float(source.spread)}).get("spread") == 1
