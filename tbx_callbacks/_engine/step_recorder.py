"""Defines `StepRecorder`, which runs the due metrics from the optimizer's hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._distributed.packing import Agree, StepValues
from tbx_callbacks._engine.activation_hooks import Activations
from tbx_callbacks._engine.cost import DeviceTime, device_marker
from tbx_callbacks._engine.counters import Counters
from tbx_callbacks._engine.error_guard import Guard
from tbx_callbacks._engine.metric_plan import MetricRun
from tbx_callbacks._engine.metric_runner import EndOfStepRuns, MetricRunner, needs_of, with_interval
from tbx_callbacks._engine.publisher import Publisher
from tbx_callbacks._engine.snapshots import GradientSnapshot, WeightSnapshot
from tbx_callbacks._engine.supported_metrics import PartialGradients
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._engine.user_scalars import UserScalars
from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks._model.sharding.dtensor import local
from tbx_callbacks.metrics.context import Context, RunInfo


class StepRecorder:
    """Runs the due metrics from the hooks of one training's optimizers. The publisher buffers their values.

    Args:
        info: describes the training.
        access: reads the model's tensors.
        runner: runs the metrics.
        run: facts about the run, for the metrics.
        publisher: receives the values.
        counters: counts steps and micro-batches.
        user_scalars: scalars that the user logs.
        guard: catches errors.
        any_sharded: whether any rank holds shards of tensors.

    Raises:
        ConfigError: a regex matches no module.
    """

    def __init__(
        self,
        info: TrainingInfo,
        access: ModelAccess,
        runner: MetricRunner,
        run: RunInfo,
        *,
        publisher: Publisher,
        counters: Counters,
        user_scalars: UserScalars,
        guard: Guard,
        any_sharded: bool,
    ) -> None:
        self._info, self._access, self._runner, self._run = info, access, runner, run
        self.sharding = access.sharding
        """Reads the model's elements and reports the optimizers' steps."""
        self._publisher, self._counters, self._user_scalars = publisher, counters, user_scalars
        self._any_sharded = any_sharded
        self._guard = guard
        guard.device_time = DeviceTime(counters.stopwatch, device_marker(access.device))
        self._activations = Activations(
            info.model,
            runner,
            compiled=info.compiled,
            reducer=publisher.reducer,
            guard=self._guard,
            abandoned=self._training_abandoned,
        )
        self._gradient_snapshot, self._weight_snapshot = GradientSnapshot(), WeightSnapshot()
        self._partial_gradients = PartialGradients()
        self.end_of_step = EndOfStepRuns()
        """Metrics that run at the end of the step."""
        self.watches_loss_scale = counters.loss_scale is not None
        """Whether a metric reads the loss scale."""
        self._first_optimizer = next(iter(info.optimizers))
        self._steps_before = self.step = 0
        self.due: list[MetricRun] = []
        """The metrics that are due in this step."""
        self._hooks = self._attach()

    def _attach(self) -> list[Any]:
        optimizers = self._info.optimizers
        before = [name for name in optimizers if "weights_before" in needs_of(self._runner.metric_runs, name)]
        return self.sharding.hook_steps(optimizers, self, before)

    def detach(self) -> None:
        """Removes every hook and drops the remains of a step that raised."""
        while self._hooks:
            self._hooks.pop().remove()
        self._weight_snapshot.clear()
        self._activations.end()

    def suspend(self) -> None:
        """Detaches from a training that an exception may have ended. If it continues, the next step attaches again."""
        self.detach()
        self.due, self._gradient_snapshot = [], GradientSnapshot()

    def _training_abandoned(self) -> bool:
        """Whether an exception ended the training without notice. If so, all hooks are removed."""
        abandoned = not self._info.still_training()
        if abandoned:
            self.suspend()
        return abandoned

    # -- one step --------------------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """Begins a step; see `Engine.begin_step`."""
        if self.due:
            self._gradient_snapshot = GradientSnapshot()
        if not self._hooks:
            self._hooks = self._attach()  # attach again after suspend()
        self.step, self.due, self._steps_before = step, self._runner.due(step), self._counters.steps
        if self._activations.modules:
            self._activations.begin(step, self.due, self._run)

    def end_microbatch(self, *, is_step: bool) -> None:
        """See `Engine.end_microbatch`."""
        if self._counters.loss_scale is not None:
            self._counters.loss_scale.sample()  # the GradScaler may have updated it
        if self._counters.steps == self._steps_before and self._gradient_snapshot.gradients:
            self._gradient_snapshot = GradientSnapshot()  # the step of the captured gradients was skipped
        if is_step and self.due and self._counters.steps == self._steps_before:
            for metric_run in self.due:
                if "loss_scale" in metric_run.spec.metric.needs:
                    self.end_of_step.defer(metric_run, Context("step", self.step, self._run))

    def before_clip(self, scale: Tensor | None, optimizer: str | None, max_norm: float | None) -> None:
        """See `Engine.before_clip`."""
        if self.due:
            what = "reading gradients before clipping"
            with self._guard(what, self.step, self._due(optimizer, "before_clip")):
                self._gradient_snapshot.take(self._access, self.due, scale, optimizer, max_norm)

    def record_clipping(self, norm: Tensor | float, max_norm: float) -> None:
        """See `Engine.record_clipping`."""
        local_norm = norm if type(norm) is Tensor else local(norm) if isinstance(norm, Tensor) else torch.tensor(norm)
        if local_norm is None:
            return  # a partial sum is a norm only after reduction over ranks
        self._counters.record_clipping(local_norm, max_norm)
        if self.due:
            self._gradient_snapshot.record_clipping(local_norm, max_norm)

    # -- the optimizer's step --------------------------------------------------------------------------------------

    def before_step(self, name: str, *, closure: bool) -> None:
        """Copies the weights that due metrics compare."""
        if (comparing := self._due(name, "weights_before")) and not self._training_abandoned():
            with self._guard("copying weights", self.step, comparing):
                self._weight_snapshot.take(self._access, self.due, name, closure=closure)

    @property
    def wants_gradients(self) -> bool:
        """Whether metrics are due in this step."""
        return bool(self.due)

    def after_step(self, name: str, *hook_arguments: object) -> None:
        """Runs the metrics that are due in the step of this optimizer."""
        self._counters.stopwatch.resume()
        if name == self._first_optimizer:
            self._counters.steps += 1
        if (
            self.due or (self._user_scalars.sums and self._user_scalars.due(self.step))
        ) and not self._training_abandoned():
            with self._guard("measuring", self.step, self._due(name)):
                try:
                    self._run_due(name, self.sharding.skipped(self._info.optimizers[name]))
                except Exception as error:
                    if self._publisher.reducer is not None:
                        self._publisher.reducer.withdraw(error)
                    raise

    def _run_due(self, name: str, skipped: Tensor | None) -> None:
        with self._guard.charged(self.step, self._due(name, "weights_before")):
            updates = self._weight_snapshot.updates(self._access, name, skipped)
        context = Context(
            event="step",
            step=self.step,
            run=self._run,
            parameters=self._access.parameters,
            gradients=self._access.gradients(name),
            weights=self._access.weights(name),
            before_clip=self._gradient_snapshot.gradients.get(name),
            updates=updates,
            skipped=skipped,
            optimizer_state=self._access.optimizer_state(name),
            clipping=self._info.clipping,
            spreads_nonfinite=self._info.spreads_nonfinite,
            clip_factor=self._gradient_snapshot.clip_factor(),
            learning_rates=self._access.learning_rates(),
        )
        step_values = self.step_values()
        if name == self._first_optimizer and (activation_values := self._activations.take()) is not None:
            step_values.update(activation_values)
        if self._user_scalars.due(self.step):
            step_values.add_local(self._user_scalars.pop())
        for metric_run in self._due(name):
            selected = replace(context, selection=metric_run.selection)
            if not self.end_of_step.defer(metric_run, selected):
                self._runner.run(metric_run, with_interval(metric_run, selected, self._counters), step_values)
        self._partial_gradients.flag(self._access, self.due, name, step_values)
        self._count_histograms(name, step_values)
        # Deferred metrics have their statistics. Without release, gradients would stay through the next backward pass.
        for tensors in (context.gradients, context.weights, updates):
            if tensors is not None:
                tensors.release()

    def _count_histograms(self, name: str, step_values: StepValues) -> None:
        """Counts all histograms of the step at once; the metrics that write them share the cost."""
        due = [metric_run for metric_run in self._due(name) if metric_run.has_histograms]
        with self._guard.charged(self.step, due):
            step_values.count_histograms(self._range_merger(due))

    def _range_merger(self, due: Sequence[MetricRun]) -> Agree | None:
        """Returns a function that merges histogram ranges over ranks, or None if that is not needed.

        It is needed where tensors are sharded or differ between ranks. All ranks return the same.
        """
        reducer = self._publisher.reducer
        if reducer is None or not (self._activations.watches(due) or (self._any_sharded and due)):
            return None
        return partial(reducer.merge_ranges, self.step, self._runner.key(due))

    def _due(self, optimizer: str | None, need: str | None = None) -> list[MetricRun]:
        """The metrics due in the step of one optimizer (None: any), optionally only those with a given need."""
        return [
            metric_run
            for metric_run in self.due
            if optimizer in (None, metric_run.optimizer) and (need is None or need in metric_run.spec.metric.needs)
        ]

    # -- values ------------------------------------------------------------------------------------------------------

    def step_values(self, step: int | None = None) -> StepValues:
        """The buffered values of this step, or of another step at which the trainer logs."""
        key = self._runner.key(self.due)
        if step is None:
            return self._publisher.step_values(self.step, key or None)  # user scalars are not shared with other ranks
        return self._publisher.step_values(step, key or ("log",))

    def finish_step(self) -> None:
        """Ends the step: runs the deferred metrics."""
        self.end_of_step.run_all(self._runner, self._counters, self._publisher)
