"""Defines `StepRecorder`, which runs the due metrics from the optimizer's hooks."""

from __future__ import annotations

import logging
import operator
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._distributed.packing import Agree, StepValues
from tbx_callbacks._distributed.rank import has_group, is_rank_zero
from tbx_callbacks._engine.activation_hooks import Activations
from tbx_callbacks._engine.backward_watch import BackwardWatch
from tbx_callbacks._engine.clip_probe import ClipProbe
from tbx_callbacks._engine.cost import DeviceTime, device_marker
from tbx_callbacks._engine.counters import Counters
from tbx_callbacks._engine.error_guard import Guard
from tbx_callbacks._engine.initial_weights import NEED as INITIAL_WEIGHTS
from tbx_callbacks._engine.initial_weights import InitialWeights, needing
from tbx_callbacks._engine.metric_plan import MetricRun
from tbx_callbacks._engine.metric_runner import EndOfStepRuns, MetricRunner, needs_of, with_interval
from tbx_callbacks._engine.publisher import Publisher
from tbx_callbacks._engine.replica_check import ReplicaCheck
from tbx_callbacks._engine.snapshots import EnteringGradients, GradientSnapshot, WeightSnapshot
from tbx_callbacks._engine.supported_metrics import PartialGradients
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._engine.user_scalars import UserScalars
from tbx_callbacks._model.model_access import ModelAccess, named_rates, rates_of
from tbx_callbacks._model.sharding.base import Closure
from tbx_callbacks._model.sharding.dtensor import local
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.tags import TIME_OTHER

logger = logging.getLogger(__name__)

_MAX_WAIT = 100  # steps for which a due metric waits for its optimizer
_OF_GRADIENTS = frozenset({"gradients", "before_clip", "weights_before", "activations", "microbatches"})
"""Needs that only a due step can fulfil, while its gradients and the old weights exist."""
_rate = operator.methodcaller("get", "lr")
Reread = Callable[[], tuple[ModelAccess, bool]]


class StepRecorder:
    """Runs the due metrics from the hooks of one training's optimizers. The publisher buffers their values.

    A step is a pass of the trainer in which any optimizer steps, perhaps several times. Each metric runs in the last
    step of its own optimizer in the pass. If that optimizer does not step, the metric stays due.

    Args:
        info: describes the training.
        access: reads the model's tensors.
        reread: returns a new `access`, and `any_sharded`, after the model or an optimizer has changed. It updates the
            metrics of `runner`.
        runner: runs the metrics.
        run: facts about the run, for the metrics.
        publisher: receives the values.
        counters: counts steps and micro-batches.
        user_scalars: scalars that the user logs.
        guard: catches errors.
        any_sharded: whether any rank holds shards of tensors.
        initial_weights: keeps the weights before the first step; None if no metric needs them.

    Raises:
        ConfigError: a regex matches no module.
    """

    def __init__(
        self,
        info: TrainingInfo,
        access: ModelAccess,
        reread: Reread,
        runner: MetricRunner,
        run: RunInfo,
        *,
        publisher: Publisher,
        counters: Counters,
        user_scalars: UserScalars,
        guard: Guard,
        any_sharded: bool,
        initial_weights: InitialWeights | None = None,
    ) -> None:
        self._info, self._access, self._reread, self._runner, self._run_info = info, access, reread, runner, run
        self.sharding = access.sharding
        """Reads the model's elements and reports the optimizers' steps."""
        self._publisher, self._counters, self._user_scalars = publisher, counters, user_scalars
        self._any_sharded = any_sharded
        self._guard = guard
        guard.device_time = DeviceTime(counters.stopwatch, device_marker(access.device))
        self._activations = self._watch_activations()
        self._gradient_snapshot, self._weight_snapshot = GradientSnapshot(), WeightSnapshot()
        self._initial_weights = initial_weights
        self.awaits_first_step = initial_weights is not None and initial_weights.is_awaited
        """Whether the next step is the first one, before which the weights are kept."""
        self._entering = EnteringGradients()
        self._backward_watch = BackwardWatch()
        self._may_clip = info.may_clip and publisher.reducer is None
        self._clip_probe = ClipProbe()
        self._clipped_names: set[str] = set()  # of optimizers that `before_clip` named
        self.probes_clipping = info.clipping == "norm" and "clipping" in runner.needs and len(info.optimizers) == 1
        """Whether each step's gradients are compared with those before clipping."""
        self._partial_gradients = PartialGradients()
        self._replica_check = ReplicaCheck() if publisher.reducer is not None else None
        self.end_of_step = EndOfStepRuns()
        """Metrics that run at the end of the step."""
        self.watches_loss_scale = counters.loss_scale is not None
        """Whether a metric reads the loss scale."""
        self.step = 0
        self.stepped = False
        """Whether an optimizer has made a step since `begin_step`."""
        self.has_stepped = False
        """Whether an optimizer has made a step since the training began."""
        self.calls = 0
        """Steps of all optimizers since `begin_step`."""
        self.unknown_steps = 0
        """Steps since then of optimizers that do not train this model."""
        self.due: list[MetricRun] = []
        """The metrics that are due in this step."""
        self._done: set[MetricRun] = set()
        self._due_since: dict[MetricRun, int] = {}
        self._rates: dict[str, list[Number | None]] = {}
        self._depths: dict[str, int] = {}  # of the stack, where an optimizer's step began
        self._strangers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._is_changed = False  # whether gradients have changed since the backward pass
        self._has_tensor_rates = True  # they must be copied, because schedulers change them
        self.captures_rates = False
        """Whether learning rates are recorded in this step even if no metric is due."""
        self._warned: set[str] = set()
        self._first_name = self._replacement = next(iter(info.optimizers))
        self._quiet_until: float = 0
        """Steps before this one need no more than their number; 0 where the step in progress needs more."""
        self.watches_steps = self._needs_each_step()
        """Whether `before_step` is needed in every step."""
        self._hooks = self._attach()

    def _attach(self) -> list[Any]:
        return self.sharding.hook_steps(self._info.optimizers, self)

    def _watch_activations(self) -> Activations:
        return Activations(
            self._info.model,
            self._runner,
            compiled=self._info.compiled,
            reducer=self._publisher.reducer,
            guard=self._guard,
            abandoned=self.training_abandoned,
        )

    def _needs_each_step(self) -> bool:
        wiring = self._counters.wiring
        return (
            self.probes_clipping
            or self.awaits_first_step
            or (wiring is not None and wiring.watches_steps)
            or self._counters.stopwatch.times is not None
        )

    def detach(self) -> None:
        """Removes every hook and drops the remains of a step that raised."""
        self._quiet_until = 0
        if self._counters.wiring is not None:
            self._counters.wiring.detach()
        if self._counters.microbatches is not None:
            self._counters.microbatches.close()
        while self._hooks:
            self._hooks.pop().remove()
        self._weight_snapshot.clear()
        self._entering.clear()
        self._backward_watch.end()
        self._activations.end()

    def suspend(self) -> None:
        """Detaches from a training that an exception may have ended. If it continues, the next step attaches again."""
        self.detach()
        self.due, self._gradient_snapshot = [], GradientSnapshot()
        self._due_since.clear()

    def training_abandoned(self) -> bool:
        """Whether an exception ended the training without notice. If so, all hooks are removed."""
        abandoned = not self._info.still_training()
        if abandoned:
            self.suspend()
        return abandoned

    def _refresh(self) -> None:
        """Reads the model and the optimizers again if they have changed since the last due step."""
        if not self._access.has_changed():
            return
        self._gradient_snapshot = GradientSnapshot()
        self._weight_snapshot.clear()
        self._entering.clear()
        self._access, self._any_sharded = self._reread()
        self.sharding = self._access.sharding
        if self._counters.wiring is not None:
            self._counters.wiring.changed(readable_parameters(self._access))
        new = [metric_run for metric_run in self._runner.due(self.step) if metric_run not in self.due]
        self.due = self.due + new
        if self._activations.modules:
            self._activations.end()
            try:
                self._activations = self._watch_activations()
            except ConfigError as error:
                self._warn("activations", "activations are left out: %s", error)

    # -- one step --------------------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """Begins a step; see `Engine.begin_step`."""
        if self.step < step < self._quiet_until:
            self.step, self.stepped, self.calls, self.unknown_steps = step, False, 0, 0
            return
        unmeasured: list[MetricRun] = []
        if self.due or self._done:
            self._gradient_snapshot = GradientSnapshot()
            unmeasured = self._unmeasured()
            self._done.clear()
            self._depths.clear()
        if not self._hooks:
            self._hooks = self._attach()  # attach again after suspend()
        self.step, self.stepped, self.calls, self.unknown_steps = step, False, 0, 0
        self.due = self._runner.due(step)
        if self._counters.wiring is not None and self._counters.wiring.is_open:
            unmeasured = [*unmeasured, *self._runner.wiring_runs]
        if unmeasured:
            self.due += [metric_run for metric_run in unmeasured if metric_run not in self.due]
        # DistributedDataParallel averages gradients after the backward pass, which changes them too.
        if self._may_clip and self.due and not has_group() and self._due(None, "before_clip"):
            self._backward_watch.begin(self._access)
        if not self.has_stepped:  # an optimizer without hooks will not report them, and its scheduler changes them
            self._rates = {name: rates_of(optimizer) for name, optimizer in self._info.optimizers.items()}
        if self._activations.modules:
            self._activations.begin(step, self.due, self._run_info)
        if self._counters.microbatches is not None and self._due(None, "microbatches"):
            self._counters.microbatches.begin()
        self.watches_steps = self._needs_each_step()
        is_quiet = self.has_stepped and not (self.due or self._activations.modules)
        is_quiet = is_quiet and (self._counters.wiring is None or not self._counters.wiring.is_open)
        self._quiet_until = self._runner.first_due_after(step) if is_quiet else 0

    def _unmeasured(self) -> list[MetricRun]:
        """The due metrics whose optimizer has not stepped: they stay due."""
        left = []
        for metric_run in self.due:
            if metric_run in self._done:
                self._due_since.pop(metric_run, None)
            elif self.step - self._due_since.setdefault(metric_run, self.step) < _MAX_WAIT:
                left.append(metric_run)
            else:
                del self._due_since[metric_run]
                self._warn(
                    metric_run.optimizer,
                    "metrics of %s are left out: it has not stepped for %d steps; pass the optimizers that train this"
                    " model",
                    metric_run.optimizer or "the optimizers",
                    _MAX_WAIT,
                )
        return left

    def end_microbatch(self, *, is_step: bool, sees_steps: bool = False) -> None:
        """See `Engine.end_microbatch`."""
        if self._counters.loss_scale is not None:
            self._counters.loss_scale.sample()  # the GradScaler may have updated it
        if self.stepped:
            return
        if self._gradient_snapshot.gradients or self._gradient_snapshot.factor is not None:
            self._gradient_snapshot = GradientSnapshot()  # the step of the captured gradients was skipped
        if not is_step or not self.due:
            return
        if not sees_steps and self._cannot_see_steps():
            self._run_without_gradients()
            return
        for metric_run in self.due:
            if "loss_scale" in metric_run.spec.metric.needs:
                self.end_of_step.defer(metric_run, Context("step", self.step, self._run_info), self._counters)
                self._done.add(metric_run)

    def before_clip(self, scale: Tensor | None, optimizer: str | None, max_norm: float | None) -> None:
        """See `Engine.before_clip`."""
        if optimizer is not None:
            self._clipped_names.add(optimizer)
        if self.due:
            what = "reading gradients before clipping"
            with self._guard(what, self.step, self._due(optimizer, "before_clip")):
                self._refresh()
                self._gradient_snapshot.take(self._access, self.due, scale, optimizer, max_norm)
        if self.probes_clipping:
            try:
                self._clip_probe.begin(self._access, scale)
            except Exception as error:
                self.probes_clipping = False
                self._guard.report("reading gradients before clipping", self.step, error)

    def record_clipping(self, norm: Tensor | float, max_norm: float) -> None:
        """See `Engine.record_clipping`."""
        local_norm = norm if type(norm) is Tensor else local(norm) if isinstance(norm, Tensor) else torch.tensor(norm)
        if local_norm is None:
            return  # a partial sum is a norm only after reduction over ranks
        self.probes_clipping = False  # the trainer tells it
        self._counters.record_clipping(local_norm, max_norm)
        if self.due:
            self._gradient_snapshot.record_clipping(local_norm, max_norm)

    # -- the optimizer's step --------------------------------------------------------------------------------------

    def name_of(self, optimizer: torch.optim.Optimizer) -> str | None:
        """Returns the optimizer's name. One that is new, and trains this model, belongs to the training from now on."""
        name: str | None = self._info.optimizers.name_of(optimizer)
        if name is not None or self.training_abandoned():
            return name
        if optimizer in self._strangers and not self.due:
            self.unknown_steps += 1
            return None
        name = self._info.optimizers.adopt(optimizer, {id(tensor) for tensor in self._info.model.parameters()})
        if name is None:
            self.unknown_steps += 1
            self._strangers.add(optimizer)
        else:
            self._replacement = name
        return name

    def before_step(self, name: str, closure: Closure | None) -> Closure | None:
        """Holds the gradients and copies the weights that due metrics need; see `StepEvents`."""
        times = self._counters.stopwatch.times
        timed = None if times is None else times.begin_step(closure)
        closure = timed or closure
        if closure is None and self._clip_probe.is_pending:
            self._end_probe()
        if self._counters.wiring is not None:
            self._counters.wiring.before_step(name, self.step)
        if self.awaits_first_step:
            self._keep_initial_weights()
        if not self.due:
            return timed
        depth = _stack_depth()
        if depth > self._depths.get(name, depth) or self.training_abandoned():
            return timed  # a step that calls the step of its base class reports it too
        with self._guard("reading the model", self.step):
            self._refresh()
        if not self._due(name):
            return timed
        self._depths[name] = depth
        self._is_changed = closure is None and self._gradients_changed(name)
        reading, comparing = self._due(name, "gradients"), self._due(name, "weights_before")
        holding = reading or comparing
        hold = partial(self._entering.hold, name=name, copies=bool(reading))
        if holding and closure is None:
            with self._guard("reading gradients", self.step, holding):
                hold(self._access)
        if comparing:
            with self._guard("copying weights", self.step, comparing):
                self._weight_snapshot.take(self._access, self.due, name, closure=closure is not None)
        return self._holding(closure, name, holding, hold) if holding and closure is not None else timed

    def _holding(
        self, closure: Closure, name: str, holding: Sequence[MetricRun], hold: Callable[[ModelAccess], None]
    ) -> Closure:
        """Returns a closure that also holds the gradients, which do not exist before it."""

        def evaluate() -> Any:
            result = closure()
            with self._guard("reading gradients", self.step, holding):
                hold(self._access)
                self._is_changed = self._gradients_changed(name)
            return result

        return evaluate

    def _keep_initial_weights(self) -> None:
        """Keeps the weights before the first step. What users load after the loop was created counts."""
        self.awaits_first_step = False
        assert self._initial_weights is not None
        metric_runs = needing(self._runner.step_runs)
        with self._guard("keeping the initial weights", self.step, metric_runs):
            self._refresh()
            self._initial_weights.keep(self._access, needing(self._runner.step_runs))

    def after_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Runs the metrics that are due in the step of this optimizer."""
        times = self._counters.stopwatch.times
        if times is not None:
            times.switch(TIME_OTHER)
        self._counters.stopwatch.resume()
        self.calls += 1
        if not self.stepped:
            self.stepped = self.has_stepped = True
            self._counters.steps += 1
            self._rates.clear()
        if self.due or self.captures_rates or self._has_tensor_rates:
            self._rates[name] = rates = rates_of(self._info.optimizers[name])
            self._has_tensor_rates = self._info.logs_elsewhere and any(isinstance(rate, Tensor) for rate in rates)
        elif self._info.logs_elsewhere:
            self._rates[name] = list(map(_rate, optimizer.param_groups))  # the same, in fewer calls
        scalars = self._user_scalars
        scalars.evaluating = scalars.in_step = False
        if scalars.is_used:
            scalars.after_step()
        if self._clip_probe.is_pending:
            self._end_probe()
        if self._counters.wiring is not None:
            self._counters.wiring.after_step(name, optimizer, self.step)
        if self._counters.recording is not None and self._counters.recording.keeper is not None:
            with self._guard("keeping batches", self.step):
                self._counters.recording.keeper.after_step(optimizer, self.sharding.skipped(optimizer))
        if self.due:
            self._measure(name, optimizer)

    def _measure(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        if name in self._depths and _stack_depth() - 1 > self._depths[name]:
            return  # a step of the base class: the step itself has not ended
        self._depths.pop(name, None)
        if self.training_abandoned():
            return
        with self._guard("measuring", self.step, self._due(name)):
            try:
                self._run_due(name, self.sharding.skipped(optimizer))
            except Exception as error:
                if self._publisher.reducer is not None:
                    self._publisher.reducer.withdraw(error)
                raise

    def _gradients_changed(self, name: str) -> bool:
        return self._backward_watch.has_changed(self._info.optimizers[name]) and not has_group()

    def _end_probe(self) -> None:
        norms = self._clip_probe.end()
        if self.probes_clipping:
            self._counters.record_clipped(norms)

    def report(self, error: Exception) -> None:
        """Logs an error once, or raises it if the set is strict."""
        self._guard.report("following the optimizers", self.step, error)

    def _run_due(self, name: str, skipped: Tensor | None) -> None:
        due = self._due(name)
        entered = self._entering.pop(self._access, name)
        if entered is None:  # the step has changed the gradients: their metrics stay due
            due = [metric_run for metric_run in due if "gradients" not in metric_run.spec.metric.needs]
        elif due and self._access.counts_any(name) and not any(tensor is not None for tensor in entered):
            self._warn_without_gradients(name)
        with self._guard.charged(self.step, self._due(name, "weights_before")):
            updates = self._weight_snapshot.updates(self._access, name, skipped, entered)
        clips = self._info.clipping == "norm" and any("clipping" in run.spec.metric.needs for run in due)
        if clips and self._gradient_snapshot.separate:
            self._warn(
                "clipping",
                "clip/factor is left out: parts of the gradients are clipped separately; compare grad_norm with"
                " grad_norm_clipped",
            )
        gradients = Tensors(self._access.counted(name, entered or ()))
        if clips and entered is not None and not _has_few_digits(entered):
            self._gradient_snapshot.compare(name, gradients)
        before_clip = self._gradient_snapshot.gradients.get(name)
        clipping = "other" if self._may_clip and before_clip is None and self._is_changed else self._info.clipping
        reading = [run for run in due if "before_clip" in run.spec.metric.needs]
        if reading and before_clip is None and clipping != "none" and not self._info.logs_elsewhere:
            self._warn_without_unclipped(name, reading)
        context = replace(
            self._context(name, due),
            clipping=clipping,
            gradients=gradients,
            before_clip=before_clip,
            updates=updates,
            skipped=skipped,
            clip_factor=self._gradient_snapshot.clip_factor(),
            clip_ratios=self._gradient_snapshot.ratios,
        )
        step_values = self.step_values()
        if (activation_values := self._activations.take()) is not None:
            step_values.update(activation_values)
        self._run(due, context, step_values)
        self._partial_gradients.flag(self._access, self.due, name, step_values)
        if self._replica_check is not None:
            key = self._runner.key(self.due)
            self._replica_check.add(self._access, self.due, key, name, context, entered, step_values)
        self._count_histograms(due, step_values)
        # Deferred metrics have their statistics. Without release, gradients would stay through the next backward pass.
        for tensors in (context.gradients, context.weights, updates, context.initial_weights):
            if tensors is not None:
                tensors.release()

    def _context(self, name: str, metric_runs: Sequence[MetricRun]) -> Context:
        """The inputs of metrics that exist after each step of an optimizer, as long as no other step begins."""
        weights, comparing = self._access.weights(name), needing(metric_runs)
        initial = self._initial_weights if comparing else None
        return Context(
            event="step",
            step=self.step,
            run=self._run_info,
            parameters=self._access.parameters,
            weights=weights,
            initial_weights=None if initial is None else initial.of(self._access, weights, comparing),
            adapters=self._access.adapters if "adapters" in needs_of(metric_runs) else (),
            optimizer_state=self._access.optimizer_state(name),
            replicas=self._access.replica_view(name),
            clipping=self._info.clipping,
            spreads_nonfinite=self._info.spreads_nonfinite,
            learning_rates=self._learning_rates(),
        )

    def _learning_rates(self) -> dict[str, Number]:
        """The rates of the optimizers that have stepped in this step."""
        known = self._info.optimizers
        by_optimizer = [named_rates(name, known[name], rates) for name, rates in self._rates.items()]
        return {name: rate for rates in by_optimizer for name, rate in rates.items()}

    def _run(self, metric_runs: Sequence[MetricRun], context: Context, step_values: StepValues) -> None:
        self._quiet_until = 0
        for metric_run in metric_runs:
            self._done.add(metric_run)
            selected = replace(context, selection=metric_run.selection, state=metric_run.state)
            if not self.end_of_step.defer(metric_run, selected, self._counters):
                self._runner.run(metric_run, with_interval(metric_run, selected, self._counters), step_values)

    def _count_histograms(self, metric_runs: Sequence[MetricRun], step_values: StepValues) -> None:
        """Counts all histograms of the step at once; the metrics that write them share the cost."""
        due = [metric_run for metric_run in metric_runs if metric_run.has_histograms]
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
            if (optimizer is None or metric_run.optimizer in (optimizer, ""))
            and (need is None or need in metric_run.spec.metric.needs)
        ]

    # -- metrics after the optimizers' steps ---------------------------------------------------------------------------

    def write_last_weights(self, step: int) -> None:
        """Runs the histograms of weights once more when the training ends after `step`, unless they ran there.

        Not on several ranks: they may end after different steps.
        """
        if self.has_stepped and self._info.ends_with_last_weights and self._publisher.reducer is None:
            runs = [run for run in self._runner.histogram_runs if not run.spec.metric.needs & _OF_GRADIENTS]
            self.run_late([run for run in runs if run.last_step != step], step)

    def run_late(self, metric_runs: Sequence[MetricRun], step: int) -> None:
        """Runs metrics at the end of a step where they were not due.

        Gradients and old weights are gone then. Metrics that need them are left out, with one warning.
        """
        done = self._done if step == self.step else ()
        late = [metric_run for metric_run in metric_runs if metric_run not in done]
        lost = [metric_run for metric_run in late if metric_run.spec.metric.needs & _OF_GRADIENTS]
        late = [metric_run for metric_run in late if metric_run not in lost]
        if lost:
            self._warn(
                "late",
                "%s: left out at step %d, because the trainer logs at a step that could not be predicted; set `every`"
                " to a number of steps",
                ", ".join(dict.fromkeys(metric_run.spec.name for metric_run in lost)),
                step,
            )
        if not late:
            return
        with self._guard("measuring", step, late):
            self._refresh()
            step_values = self._publisher.step_values(step, self._runner.key(late) or None, again=True)
            for name in dict.fromkeys(metric_run.optimizer for metric_run in late):
                own = [metric_run for metric_run in late if metric_run.optimizer == name]
                self._run(own, replace(self._context(name or self._first_name, own), step=step), step_values)
                self._count_histograms(own, step_values)

    def _cannot_see_steps(self) -> bool:
        """Whether the trainer has finished a step, but the optimizer calls no step hooks."""
        scaler = self._info.scaler
        may_skip = self.watches_loss_scale or (scaler is not None and scaler.is_enabled())
        return not (self.has_stepped or may_skip or self.sharding.frees_gradients)

    def _run_without_gradients(self) -> None:
        self._counters.steps += 1
        lost = [metric_run for metric_run in self.due if metric_run.spec.metric.needs & _OF_GRADIENTS]
        if lost:
            self._warn_without_gradients(self._first_name, stepped=False)
        if self.awaits_first_step and (comparing := needing(self.due)):
            self._warn(
                INITIAL_WEIGHTS,
                "%s: left out, because %s does not report its first step; derive it from torch.optim.Optimizer",
                ", ".join(dict.fromkeys(metric_run.spec.name for metric_run in comparing)),
                self._first_name,
            )
        due, self.due = [metric_run for metric_run in self.due if metric_run not in lost], []
        self.run_late(due, self.step)

    def _warn_without_unclipped(self, name: str, metric_runs: Sequence[MetricRun]) -> None:
        names = ", ".join(dict.fromkeys(metric_run.spec.name for metric_run in metric_runs))
        if self._clipped_names:
            self._warn(
                f"{name} before clipping",
                "%s of %s: left out before clipping, because before_clip names only %s; call it for each optimizer, or"
                " without optimizer= for all",
                names,
                name,
                ", ".join(sorted(self._clipped_names)),
            )
        else:
            self._warn(
                "before clipping",
                "%s: left out before clipping, because gradients change between the backward pass and the step; %s",
                names,
                self._info.clip_remedy,
            )

    def _warn_without_gradients(self, name: str, *, stepped: bool = True) -> None:
        lost = [metric_run.spec.name for metric_run in self._due(None) if metric_run.spec.metric.needs & _OF_GRADIENTS]
        is_usual = type(self._info.optimizers[name]).__module__.startswith("torch.optim")
        remedy = "call loss.backward() before it and zero_grad() after it"
        if not stepped and is_usual:
            problem, remedy = (
                f"{name} has not stepped",
                "return the loss of each batch, and pass this model's optimizer",
            )
        elif is_usual:
            problem = f"no gradients exist at the step of {name}"
        else:
            problem = f"no gradients exist in p.grad at the step of {name}"
            remedy = f"{remedy}, or use another optimizer"
        if lost:
            names = ", ".join(dict.fromkeys(lost))
            self._warn(f"{name} gradients", "%s: left out, because %s; %s", names, problem, remedy)

    def _warn(self, kind: str, message: str, *arguments: object) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            if is_rank_zero():
                logger.warning(message, *arguments)

    # -- values ------------------------------------------------------------------------------------------------------

    def step_values(self, step: int | None = None) -> StepValues:
        """The buffered values of this step, or of another step at which the trainer logs."""
        key = self._runner.key(self.due)
        if step is None:
            return self._publisher.step_values(self.step, key or None)  # user scalars are not shared with other ranks
        return self._publisher.step_values(step, key or ("log",))

    def first_rate(self) -> Number | None:
        """The learning rate that the first optimizer used in this step; None if it did not step.

        An optimizer that is created during the training takes its place in steps without it.
        """
        if not self.stepped:
            return None
        name = self._first_name if self._first_name in self._rates else self._replacement
        rates = self._rates.get(name)
        return rates[0] if rates else None

    def finish_step(self) -> None:
        """Ends the step: runs the deferred metrics."""
        self.end_of_step.run_all(self._runner, self._counters, self._publisher)


def readable_parameters(access: ModelAccess) -> dict[str, Tensor]:
    """Returns the parameters by name, if each is whole on this rank and its gradient can be read; else none."""
    if access.is_sharded or access.sharding.frees_gradients or access.sharding.unsupported_reason is not None:
        return {}
    return {parameter.name: parameter.tensor for parameter in access.parameters}


def _has_few_digits(gradients: Sequence[Tensor | None]) -> bool:
    """Whether small elements lose digits when they are clipped."""
    return any(gradient is not None and gradient.dtype == torch.float16 for gradient in gradients)


def _stack_depth() -> int:
    """The number of frames above the caller's caller. A failed step that is tried again has the same one."""
    depth, frame = 0, sys._getframe(2)
    while (above := frame.f_back) is not None:
        depth, frame = depth + 1, above
    return depth
