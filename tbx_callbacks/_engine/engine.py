"""Defines `Engine`, which runs the metrics of a set through one training, from `start` to `end`."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import Tensor

from tbx_callbacks import tags
from tbx_callbacks._config.cadence import Cadence
from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._config.rule_options import NO_LIVE_RULES, LiveRuleConfig
from tbx_callbacks._config.schedule import forget_warnings, never
from tbx_callbacks._config.validation import short
from tbx_callbacks._distributed.packing import Facts
from tbx_callbacks._distributed.rank import has_group, in_group, is_rank_zero, size_variable, world_size
from tbx_callbacks._distributed.reducer import Reducer, join
from tbx_callbacks._engine.best_values import BestValues
from tbx_callbacks._engine.control import Control
from tbx_callbacks._engine.counters import Counters, Stopwatch
from tbx_callbacks._engine.epochs import Cadences
from tbx_callbacks._engine.error_guard import Guard
from tbx_callbacks._engine.initial_weights import prepare
from tbx_callbacks._engine.live_rules import OnFinding
from tbx_callbacks._engine.metric_plan import families, follow_other_metrics, plan, schedule_of
from tbx_callbacks._engine.metric_runner import MetricRunner
from tbx_callbacks._engine.microbatch_gradients import MicrobatchGradients
from tbx_callbacks._engine.planner import Planner
from tbx_callbacks._engine.publisher import Publisher
from tbx_callbacks._engine.recording import NEEDS as ROW_NEEDS
from tbx_callbacks._engine.recording import Recording
from tbx_callbacks._engine.row_lengths import RowLengths
from tbx_callbacks._engine.step_recorder import StepRecorder, readable_parameters
from tbx_callbacks._engine.step_times import StepTimes
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._engine.user_scalars import UserScalars
from tbx_callbacks._model.adapters import warn_about_others, warn_about_untrained
from tbx_callbacks._model.amp import loss_scale
from tbx_callbacks._model.optimizers import ids_of
from tbx_callbacks._model.outputs import Predictions
from tbx_callbacks._stats.accumulators import kept, stack_scalars
from tbx_callbacks._stats.types import Number
from tbx_callbacks._wiring.wiring import Wiring
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.values import Max, Mean, Value
from tbx_callbacks.rules.base import Action
from tbx_callbacks.writers.base import NullWriter, Writer

logger = logging.getLogger(__name__)

_OF_LABELS = frozenset({"predictions", *ROW_NEEDS})
_DRAIN_SECONDS, _FAILED_DRAIN_SECONDS = 30.0, 5.0  # maximum wait for other ranks at the end; after a failure


class Engine:
    """Runs the metrics of a set.

    For every optimizer step an integration calls `begin_step`, then optionally `record_batch`, `before_clip` and
    `record_clipping`. The metrics run in the optimizer's own post-step hook. `flush_step` or `record_logs` pass the
    step's values to the writer.

    Args:
        items: the metrics.
        every: cadence of items without one.
        strict: raise errors of metrics instead of disabling them.
        writer: receives the values of each step.
        stopwatch: times the training.
        budget: the largest share of the training time for monitoring; None sets no limit.
        live: the rules that are evaluated during the training.
        best: by name or tag of an evaluation metric, whether a larger value is better.
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
        best: Mapping[str, bool] | None = None,
    ) -> None:
        self.publisher = Publisher(writer, strict=strict)
        self.stopwatch = stopwatch or Stopwatch()
        self._items, self._every, self._strict = tuple(items), every, strict
        self._guard = Guard(strict=strict, stopwatch=self.stopwatch)
        self.counters = Counters(self.stopwatch)
        """Counts steps and micro-batches."""
        # Values that the trainer logs before training (an evaluation) are recorded too.
        initial_runs = plan([item for item in self._items if item.select is None], every, (), never, {})
        self._runner = MetricRunner(initial_runs, strict=strict, clock=self.stopwatch.clock)
        self._share, self._live = budget, live
        self._control = Control(self.publisher, self._runner, self.stopwatch, share=None, live=NO_LIVE_RULES)
        self.recorder: StepRecorder | None = None
        """Runs the metrics in the optimizers' steps; None outside a training."""
        self._best_directions = dict(best or {})
        self._best = BestValues({}, self._best_directions)
        self._run = RunInfo()
        self.user_scalars = UserScalars()
        """Scalars that the user logs."""
        self._warned_evaluation = False
        self._counts_batches, self._shares_logs_at = True, never
        self._left_out: list[str] = []
        self.labels: Any = None
        """Labels of the current micro-batch, if an integration read them before the model's forward pass."""

    # -- start and end of a run --------------------------------------------------------------------------------------

    def start(
        self,
        info: TrainingInfo,
        resumed_from: tuple[str, int] | None = None,
        process_group: Any = None,
        *,
        awaits_group: bool = False,
        folder: str | None = None,
        finished_steps: int = 0,
        on_finding: OnFinding | None = None,
    ) -> None:
        """Resolves the selections for this model and hooks into the optimizers.

        Args:
            info: describes the training.
            resumed_from: folder and last step of the run that is resumed.
            process_group: the ranks that train; all ranks if None.
            awaits_group: whether a process group may still come; see `warn_about_share`.
            folder: the run's folder; None on ranks that do not write.
            finished_steps: steps before this training, of one that resumes.
            on_finding: see `RuleRunner`.

        Raises:
            ConfigError: a regex matches nothing, or two metrics would write the same tag.
        """
        self.detach()
        self._end_recording()
        forget_warnings()
        self.publisher.start(reducer := self._join(info, process_group))
        is_alone = world_size(process_group) == 1 and (has_group() or size_variable() is None)
        is_first = is_rank_zero(process_group)
        self._counts_batches = reducer is not None or is_alone  # else one rank's share
        self._shares_logs_at = info.log_schedule
        cadences = Cadences(self._items, self._every, self._live).resolve(info.steps_per_epoch, reducer)
        planner = Planner(cadences, info, reducer, is_alone=is_alone, warns=is_first and not awaits_group)
        access, metric_runs = planner.plan()
        self._left_out = sorted({item.name for item in cadences.items} - {run.spec.name for run in metric_runs})
        follow_other_metrics(metric_runs, info.log_schedule)
        self._runner = MetricRunner(
            metric_runs, strict=self._strict, clock=self.stopwatch.clock, shared=reducer is not None
        )
        self._runner.edges = frozenset({1, info.last_step or 1})
        self._control = Control(self.publisher, self._runner, self.stopwatch, share=self._share, live=cadences.live)
        self.user_scalars.start(
            info.model, schedule_of(cadences.every, info.log_schedule), is_shared=reducer is not None
        )
        scaler = info.scaler if "loss_scale" in self.needs else None
        self.counters = Counters(
            self.stopwatch, loss_scale(scaler), Predictions(info.model, info.predictions_remedy, warns=is_first)
        )
        self.stopwatch.times = StepTimes(lambda: self.stopwatch.clock()) if "times" in self.needs else None
        self.stopwatch.cancel_waiting()
        for metric_run in metric_runs:
            metric_run.last_totals = self.counters.totals()  # the stopwatch keeps its total between trainings
        if "wiring" in self._runner.needs:
            self.counters.wiring = Wiring(
                info.model,
                info.optimizers,
                readable_parameters(access),
                compiled=info.compiled,
                unknown_token=info.unknown_token,
                on_error=lambda error: self._guard.report("checking the wiring", self._step, error),
            )
        if not ROW_NEEDS.isdisjoint(self._runner.needs):
            self.counters.recording = Recording(
                self._items,
                info,
                self.counters.predictions,
                reducer,
                folder=folder,
                step=finished_steps,
                warns=is_first,
            )
        self._best = BestValues(info.larger_is_better, self._best_directions)
        for logs in info.earlier_logs:
            self._best.update(logs)
        self._run = RunInfo(
            info.hparams,
            info.texts,
            families(metric_runs),
            self._best.values,
            rank=dist.get_rank() if in_group(process_group) else None,
            last_step=info.last_step,
            finished_steps=finished_steps,
        )
        self.recorder = StepRecorder(
            info,
            access,
            partial(planner.plan_again, self._runner),
            self._runner,
            self._run,
            publisher=self.publisher,
            counters=self.counters,
            user_scalars=self.user_scalars,
            guard=self._guard,
            any_sharded=planner.any_rank_sharded(access),
            initial_weights=prepare(
                access,
                metric_runs,
                reducer,
                folder=folder,
                is_resumed=finished_steps > 0,
                warns=is_first,
            ),
        )
        if "adapters" in self.needs and is_first and not access.sharding.frees_gradients:
            warn_about_untrained(access.adapters, set().union(*map(ids_of, info.optimizers.values())))
            warn_about_others(info.model)
        if "padding" in self._runner.needs:
            self.counters.row_lengths = RowLengths(info.length_limit)
        if "microbatches" in self._runner.needs:
            self.counters.microbatches = MicrobatchGradients(
                info.model,
                info.optimizers,
                info.scaler,
                ranks=1 if reducer is None else world_size(process_group),
                is_abandoned=self.recorder.training_abandoned,
                on_error=lambda error: self._guard.report("reading gradients of micro-batches", self._step, error),
            )
        self._control.start_rules(
            cadences.every,
            info.log_schedule,
            resumed_from,
            sees_all_ranks=self._counts_batches,
            strict=self._strict,
            on_finding=on_finding,
        )
        self.publisher.write(
            0, self._runner.run_event(Context("start", 0, self._run), self.publisher.new_values()).finish_local()
        )
        self.stopwatch.resume()

    def _join(self, info: TrainingInfo, process_group: Any) -> Reducer | None:
        """Joins the other ranks; returns None with one warning if they run other metrics or cadences."""
        reducer = join(process_group)
        if reducer is None or reducer.is_same(_description(self._items, self._every, self._live, self._share, info)):
            return reducer
        if reducer.rank == 0:
            logger.warning(
                "cross-rank metrics disabled: ranks have different metric sets or cadences; pass the same config and"
                " log_every on all ranks"
            )
        reducer.close()
        return None

    def end(self, step: int, *, succeeded: bool, is_known: bool = True) -> None:
        """Publishes the remaining values and the final ones. Values that the trainer logs later are still recorded.

        Without `is_known` the run stays without a status.
        """
        self.flush_step(ended=step)
        if succeeded and self.recorder is not None:
            self.recorder.write_last_weights(step)
            self.publisher.flush()
        self._end_wiring(step)
        self.detach()
        self.stopwatch.pause()
        last_values = self._end_recording()
        self.stopwatch.times = None
        timeout, started = _DRAIN_SECONDS if succeeded else _FAILED_DRAIN_SECONDS, time.monotonic()
        if self.publisher.reducer is not None:  # other ranks of the training may wait for this one
            timeout = min(timeout, self.publisher.reducer.timeout)
        local = self.publisher.reducer is None
        own: dict[str, Value] = {**self.user_scalars.pop(step, is_last=True), **last_values}
        if not self.publisher.drain(timeout, None if local else (step, own)):
            logger.warning(
                "cross-rank values of the last steps are lost: other ranks did not answer within %.0f s at the end"
                " of training",
                timeout,
            )
        self.publisher.close_live_rules(step, max(1.0, timeout - (time.monotonic() - started)))
        self._run = replace(self._run, succeeded=succeeded if is_known else None)
        final_values = self._runner.run_event(Context("end", step, self._run), self.publisher.new_values())
        final_values.add_local(own if local else {})
        self.publisher.write(step, final_values.finish_local())
        self.publisher.writer.flush()

    def _end_recording(self) -> dict[str, Value]:
        """Writes the rest of the rows; returns values that only the last steps have changed."""
        recording, self.counters.recording = self.counters.recording, None
        if recording is None:
            return {}
        with self._guard("recording rows", self._step):
            recording.close()
        is_written = any("bad_batches" in metric_run.spec.metric.needs for metric_run in self._runner.step_runs)
        bad_steps = recording.new_bad_steps(is_shared=self.publisher.reducer is not None) if is_written else None
        return {} if bad_steps is None else {tags.BAD_BATCHES: Max(bad_steps)}

    def _end_wiring(self, step: int) -> None:
        """Writes the results of checks that have no point of their own."""
        wiring, self.counters.wiring = self.counters.wiring, None
        if wiring is not None and (checks := wiring.end()):
            values = self.publisher.new_values()
            for metric_run in self._runner.wiring_runs:
                self._runner.run(metric_run, Context("end", step, self._run, checks=checks), values)
            self.publisher.write(step, values.finish_local())

    def detach(self) -> None:
        """Removes every hook."""
        if self.recorder is not None:
            self.recorder.detach()
            self.recorder = None

    @property
    def writer(self) -> Writer:
        """Receives the values of each step."""
        return self.publisher.writer

    @writer.setter
    def writer(self, writer: Writer) -> None:
        self.publisher.writer = writer

    def last_value(self, tag: str) -> FinalValue | None:
        """The last value written under a tag; None before the first one."""
        return self.publisher.last_value(tag)

    def drain(self, seconds: float) -> bool:
        """Writes all pending values; returns whether the other ranks answered within `seconds`."""
        return self.publisher.drain(seconds)

    def warn_about_share(self) -> None:
        """Warns that a launcher's variable announced other processes, and that no process group has come."""
        variable = size_variable()
        if variable is not None and not self._counts_batches:
            logger.warning(
                "%s is set without a process group, so these metrics would cover its share of the data only;"
                " disabled: %s; unset it, or call init_process_group first",
                variable,
                ", ".join([*self._left_out, tags.TRAIN_LOSS]),
            )

    def discard_step(self) -> bool:
        """Drops the values of the step in progress, which are those of one rank; returns whether there were any."""
        found = self.publisher.buffered is not None
        if self.recorder is not None:
            found |= bool(self.recorder.end_of_step.pending)
            self.recorder.end_of_step.pending.clear()
        self.publisher.buffered = None
        return found

    def abandon(self) -> None:
        """Leaves a training without waiting for anything; its last values are not written."""
        self.detach()
        self.publisher.close_reducer()

    def wait_for_device(self) -> None:
        """Writes the values that wait for a device."""
        self.publisher.wait_for_device()

    def suspend(self) -> None:
        """Removes every hook of a training that an exception may have ended. The next step installs them again."""
        if self.recorder is not None:
            self.recorder.suspend()

    @property
    def has_other_ranks(self) -> bool:
        """Whether values are merged with those of other ranks."""
        return self.publisher.reducer is not None

    @property
    def needs(self) -> frozenset[str]:
        """The needs of all metrics, at any step of the run."""
        return self._runner.needs

    @property
    def wants_labels(self) -> bool:
        """Whether a metric of this run reads the labels of the batch that begins."""
        wiring = self.counters.wiring
        return not _OF_LABELS.isdisjoint(self._runner.needs) or (wiring is not None and wiring.is_open)

    @property
    def wants_rows(self) -> bool:
        """Whether a metric of this run reads the rows of the batch that begins."""
        return self.counters.recording is not None

    def expect_rows(self, batch: Any, labels: Any, size: int | None) -> None:
        """Keeps the rows of the micro-batch that begins; see `rows_in`."""
        if self.counters.recording is not None:
            self.counters.recording.expect(batch, labels, size)

    @property
    def keeps_batches(self) -> bool:
        """Whether a metric of this run keeps the batches of bad steps."""
        return self.counters.recording is not None and self.counters.recording.keeper is not None

    def add_pass(self, outputs: Any) -> None:
        """Keeps the outputs of a micro-batch in progress; see `Recording.add_pass`."""
        if self.counters.recording is not None:
            self.counters.recording.add_pass(outputs)

    def expect_inputs(self, batch: Any, labels: Any, size: int | None, *, is_pass: bool) -> None:
        """Keeps a batch that may stay without an end; see `Recording.expect_inputs`."""
        if self.counters.recording is not None:
            self.counters.recording.expect_inputs(batch, labels, size, is_pass=is_pass)

    def interrupt(self, error: BaseException | None) -> None:
        """Judges the micro-batch in which the training has ended; see `BatchKeeper.interrupt`."""
        if self.counters.recording is not None:
            with self._guard("keeping batches", self._step):
                self.counters.recording.interrupt(error)

    # -- one step --------------------------------------------------------------------------------------------------

    def begin_step(self, step: int, *, captures_rates: bool = False) -> None:
        """Begins a step; `step` is its number once it is finished (1-based).

        With `captures_rates`, `first_rate` is known at its end.
        """
        recorder = self.recorder
        # Most steps have no values: `flush_step` is not called in vain.
        if recorder is None or self.publisher.buffered or recorder.end_of_step.pending or self.user_scalars.is_used:
            self.flush_step(ended=None if recorder is None else recorder.step)
        if self.counters.recording is not None and (keeper := self.counters.recording.keeper) is not None:
            with self._guard("keeping batches", self._step):
                keeper.begin_step(step)
        if recorder is not None:
            recorder.begin_step(step)
            recorder.captures_rates = captures_rates

    @property
    def has_stepped(self) -> bool:
        """Whether an optimizer has made a step since the training began."""
        return self.recorder is not None and self.recorder.has_stepped

    @property
    def optimizer_calls(self) -> int:
        """Steps of all optimizers since `begin_step`."""
        return self.recorder.calls if self.recorder is not None else 0

    @property
    def unknown_steps(self) -> int:
        """Steps since `begin_step` of optimizers that do not train the model."""
        return self.recorder.unknown_steps if self.recorder is not None else 0

    @property
    def first_rate(self) -> Number | None:
        """The learning rate of the first optimizer in this step; None without one."""
        return self.recorder.first_rate() if self.recorder is not None else None

    def end_microbatch(self, *, is_step: bool, sees_steps: bool = False) -> None:
        """Ends one iteration of the trainer's loop.

        Args:
            is_step: whether it counts as a step even if no optimizer has stepped.
            sees_steps: whether the caller knows that no optimizer has stepped. Otherwise its hooks may be missing.
        """
        recorder = self.recorder
        if recorder is not None and (recorder.due or recorder.watches_loss_scale):
            recorder.end_microbatch(is_step=is_step, sees_steps=sees_steps)

    def end_step(self, step: int, *, flush: bool) -> Action:
        """Ends a step of a trainer that numbers its steps; returns the action to take, the same on all ranks.

        Args:
            step: finished steps.
            flush: whether to pass the step's values to the writer, because the trainer logs nothing for this step.
        """
        action, recorder = Action.NONE, self.recorder
        if self.publisher.decisions.pending:
            action = self.poll_actions(step)
        if recorder is not None and (recorder.due or recorder.watches_loss_scale):
            recorder.end_microbatch(is_step=True)
        if flush and (
            recorder is None or self.publisher.buffered or recorder.end_of_step.pending or self.user_scalars.is_used
        ):
            self.flush_step(ended=step)
        return action

    def _has_values(self, ended: int | None) -> bool:
        """Whether there are values to publish, at the end of the step `ended` if any; not so in most steps."""
        recorder = self.recorder
        if self.publisher.buffered is not None:
            return True
        if recorder is None:
            return False
        scalars = self.user_scalars
        due = scalars.is_used and ended is not None and scalars.due(ended)
        return due or bool(recorder.end_of_step.pending)

    def record_batch(self, *, loss: Tensor | None, samples: int | None, tokens: Tensor | None) -> Number | None:
        """Counts one micro-batch; returns its loss as `kept` does, or None if it is not counted."""
        counters, now = self.counters, None
        if self._counts_batches and counters.counting:
            try:
                now = counters.record_batch(loss=loss, samples=samples, tokens=tokens)
            except Exception as error:
                counters.counting = False
                self._guard.report("counting micro-batches", self._step, error)
        if counters.recording is not None and (keeper := counters.recording.keeper) is not None:
            with self._guard("keeping batches", self._step):
                known = kept(loss) if now is None and loss is not None else now
                keeper.end_batch(None if known is None else stack_scalars([known])[0])
        return now

    @property
    def weighs_batches(self) -> bool:
        """Whether a metric reads the gradients of micro-batches in this step."""
        return self.counters.microbatches is not None and self.counters.microbatches.is_active

    def weigh_batch(self, weight: Tensor | None, problem: str = "") -> None:
        """Sets the share of a micro-batch in the loss; see `MicrobatchGradients.weigh`."""
        if self.counters.microbatches is not None:
            self.counters.microbatches.weigh(weight, problem)

    def record_masks(self, masks: Sequence[Tensor] | None) -> None:
        """Records the attention masks of a micro-batch; None if it has none by row."""
        if self.counters.row_lengths is not None:
            with self.guard_batches():
                self.counters.row_lengths.add(masks)

    def record_outputs(self, outputs: Any, labels: Any) -> None:
        """Records the model's outputs for a micro-batch of training, and its labels (default: `self.labels`)."""
        if labels is None:
            labels, self.labels = self.labels, None  # the labels belong to one forward pass only
        with self.guard_outputs():
            if "losses" in self.needs:
                self.counters.extra_losses.add(outputs)
            if "predictions" in self.needs:
                self.counters.predictions.add(outputs, labels)
            if self.counters.recording is not None:
                self.counters.recording.add_outputs(self._step, outputs, labels)

    def guard_outputs(self) -> AbstractContextManager[None]:
        """Catches errors while an integration reads the model's outputs."""
        return self._guard("reading model outputs", self._step)

    def guard_batches(self) -> AbstractContextManager[None]:
        """Catches errors while an integration reads a micro-batch."""
        return self._guard("counting micro-batches", self._step)

    def before_clip(
        self, scale: Tensor | None = None, *, optimizer: str | None = None, max_norm: float | None = None
    ) -> None:
        """Records that all gradients of this step exist and are not clipped yet.

        Args:
            scale: the loss scale by which the gradients are still multiplied.
            optimizer: name of the optimizer that steps next; all optimizers if None.
            max_norm: the limit, if the trainer will clip by the norm of all these gradients.
        """
        if self.recorder is not None and not self.recorder.sharding.clips_gradients:
            self.recorder.before_clip(scale, optimizer, max_norm)

    def record_clipping(self, norm: Tensor | float, max_norm: float) -> None:
        """Records that the trainer clipped this step's gradients to `max_norm`; `norm` is their norm before."""
        if self.recorder is not None and not self.recorder.sharding.clips_gradients:
            self.recorder.record_clipping(norm, max_norm)

    def log(self, tag: str, value: Tensor | float, step: int = 0) -> None:
        """Adds a user scalar to the mean that is written under `tag` at the next point.

        Args:
            tag: the user's tag.
            value: a number or a tensor with one element.
            step: number of finished steps, for values of an evaluation.

        Raises:
            TypeError: the value is not a number.
            ValueError: TensorBoard would rewrite the tag, the tag belongs to a metric, or the value is not a scalar.
        """
        if not isinstance(tag, str):
            raise TypeError(f"tag must be a string, got {short(tag)}; write log(tag, value)")
        if self._runner.owns_tag(tag):
            raise ValueError(f"tag must not be one that a metric writes, got {tag!r}; choose another")
        self.user_scalars.add(tag, value, step)

    # -- publishing ------------------------------------------------------------------------------------------------

    def flush_step(self, *, ended: int | None = None) -> None:
        """Passes the buffered values to the writer, and the user's scalars if the step `ended` is their point."""
        recorder = self.recorder
        if not self._has_values(ended):
            return  # nothing was due, as in most steps
        with self._guard("publishing", self._step):
            if recorder is not None:
                recorder.finish_step()
                self._add_user_scalars(recorder, ended)
            self.publisher.flush()
        self._apply_budget()

    def record_logs(
        self,
        step: int,
        logs: Mapping[str, Number | str],
        facts: Facts | None = None,
        shared: Mapping[str, Value] | None = None,
        *,
        on_all_ranks: bool = True,
        is_point: bool = False,
        is_over: bool = True,
    ) -> None:
        """Records values (by tag) that the trainer logged after `step` steps, to write them with that step's values.

        Args:
            step: finished optimizer steps.
            logs: values of the whole run.
            facts: numbers that the trainer reported for this step, for values that are derived from others.
            shared: this rank's part of values of this same step, perhaps empty. Either all ranks pass None or none
                does.
            on_all_ranks: whether all ranks make this call. Only then may the step be shared with them.
            is_point: whether the metrics with `every: log` have a point here, as far as they do not have one yet.
            is_over: whether the step has ended. Some values are logged before.
        """
        if is_point and self.recorder is not None and self.recorder.step == step:
            self.recorder.run_late(self._runner.logged_runs, step)
        with self._guard("publishing", step):
            writes_shared = shared is not None and self._runner.writes_logs
            if (
                self.recorder is not None
                and self._counts_batches
                and on_all_ranks
                and (writes_shared or (self._control.rule_schedule(step) and self._all_ranks_log(step, shared)))
            ):
                self.recorder.step_values(step).add(shared or {})
            self._best.update(logs)
            log_values = self._runner.run_event(Context("log", step, self._run, logs=logs), self.publisher.new_values())
            self._runner.drop_logged_tags(log_values.tags)
            if self.recorder is not None:
                self.recorder.finish_step()
                self._add_user_scalars(self.recorder, step if is_over and step == self.recorder.step else None)
            else:
                log_values.add_local(self._user_scalars_outside_training(step))
            self.publisher.flush_with_logs(step, log_values, facts)
        self._apply_budget()

    def _add_user_scalars(self, recorder: StepRecorder, ended: int | None) -> None:
        """Adds the user's scalars to the values of the step `ended`, if it is one of their points."""
        if ended is not None and self.user_scalars.due(ended):
            recorder.step_values(ended).add(self.user_scalars.pop(ended))

    def _user_scalars_outside_training(self, step: int) -> dict[str, Mean]:
        """The user's scalars that are written at once, because there is no next point. Ranks cannot merge them."""
        if world_size() > 1 and self.user_scalars.discard_evaluations() and not self._warned_evaluation:
            self._warned_evaluation = True
            if not isinstance(self.writer, NullWriter):
                logger.warning(
                    "scalars logged in an evaluation outside the training are not written: ranks cannot merge them;"
                    " return them from compute_metrics"
                )
        return self.user_scalars.pop_outside_training(step)

    def _all_ranks_log(self, step: int, shared: Mapping[str, Value] | None) -> bool:
        """Whether every rank records logs at this step: no rank may share a step that others do not know.

        A user may log on rank 0 alone, at any step.
        """
        return self.publisher.reducer is None or shared is not None or self._shares_logs_at(step)

    def poll_actions(self, step: int) -> Action:
        """Applies the decisions of rank 0 after `step`; returns the action to take, the same on all ranks."""
        if self.publisher.decisions.pending:
            with self._guard("applying decisions of rank 0", step):
                return self._control.apply_decisions(step)
        return Action.NONE

    def _apply_budget(self) -> None:
        if self._share is not None:
            with self._guard("applying the overhead budget", self._step):
                self._control.apply_budget(self._step)

    @property
    def _step(self) -> int:
        return self.recorder.step if self.recorder is not None else 0


def _description(
    items: Sequence[MetricSpec], every: Cadence, live: LiveRuleConfig, share: float | None, info: TrainingInfo
) -> str:
    """Describes the metrics and their steps, the same on every rank that runs the same ones."""
    logs_at = [step for step in range(1, 65) if info.log_schedule(step)]
    own = getattr(info.log_schedule, "n", None)  # an interval above 64
    metrics = [(item.name, item.every, item.select) for item in items]
    described = f"{metrics} {every} {live} {share} {logs_at} {own}"
    return re.sub(r" at 0x[0-9a-f]+", "", described)
