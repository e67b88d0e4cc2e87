"""What is due in a step of one training, measured inside the optimizer's step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._distributed.packing import Agree, StepValues
from tbx_callbacks._engine.activations import Activations
from tbx_callbacks._engine.cost import DeviceTime, marks_of, split_cost
from tbx_callbacks._engine.counters import Counters
from tbx_callbacks._engine.guard import ChargedGuard, Guard
from tbx_callbacks._engine.plan import MetricRun
from tbx_callbacks._engine.publisher import Publisher
from tbx_callbacks._engine.runner import EndOfStepRuns, MetricRunner, needs_of, with_interval
from tbx_callbacks._engine.snapshots import GradientSnapshot, WeightSnapshot
from tbx_callbacks._engine.support import PartialGradients
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._engine.user_scalars import UserScalars
from tbx_callbacks._model.access import ModelAccess
from tbx_callbacks._model.amp import found_inf
from tbx_callbacks._model.sharding.dtensor import local
from tbx_callbacks.metrics.context import Context, RunInfo


class StepRecorder:
    """Runs what is due from the hooks of one training's optimizers; the publisher holds what was measured.

    Args:
        setup: what the adapter told.
        source: the tensors.
        program: the metrics.
        run: facts for the metrics.
        publisher: takes what was measured.
        counters: counts steps and micro-batches.
        own: scalars of the user's own.
        guard: catches errors.
        spread: whether ranks hold pieces of tensors.

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
        spread: bool,
    ) -> None:
        self._info, self._access, self._runner, self._run = info, access, runner, run
        self._publisher, self._counters, self._user_scalars = publisher, counters, user_scalars
        self._spread = spread
        self._guard = ChargedGuard(guard, DeviceTime(counters.stopwatch, marks_of(access.device)))
        self._activations = Activations(
            info.model,
            runner,
            compiled=info.compiled,
            reducer=publisher.reducer,
            guard=self._guard,
            left=self._training_abandoned,
        )
        self._clipping, self._copies = GradientSnapshot(), WeightSnapshot()
        self._unsummed = PartialGradients()
        self.end_of_step = EndOfStepRuns()
        """Metrics that wait for the end of their step."""
        self.watches_loss_scale = counters.loss_scale is not None
        """Whether a loss scale is watched."""
        self._first, self._clock = next(iter(info.optimizers)), counters.stopwatch.clock
        self._steps_before = self.step = 0
        self.due: list[MetricRun] = []
        """What is measured in this step."""
        self._hooks = self._attach()

    def _attach(self) -> list[Any]:
        deepspeed = self._info.deepspeed
        if deepspeed is not None:
            return [deepspeed.patch_step(self._before_deepspeed_step, self._after_deepspeed_step)]
        hooks: list[Any] = []
        for name, optimizer in self._info.optimizers.items():
            if "weights_before" in needs_of(self._runner.metric_runs, name):
                hooks.append(optimizer.register_step_pre_hook(partial(self._before_step, name)))
            hooks.append(optimizer.register_step_post_hook(partial(self._after_step, name)))
        return hooks

    def detach(self) -> None:
        """Removes every hook and forgets what is left of a step that raised."""
        while self._hooks:
            self._hooks.pop().remove()
        self._copies.clear()
        self._activations.end()

    def suspend(self) -> None:
        """As `detach`, of a training that may have been left by an exception; it goes on with the next step if not."""
        self.detach()
        self.due = []

    def _training_abandoned(self) -> bool:
        """Whether the training was left and did not say so; nothing of it stays in the model and the optimizers."""
        left = not self._info.still_training()
        if left:
            self.suspend()
        return left

    # -- one step --------------------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """A step begins; see `Engine.begin_step`."""
        if self.due:
            self._clipping = GradientSnapshot()
        if not self._hooks:
            self._hooks = self._attach()  # it was let go
        self.step, self.due, self._steps_before = step, self._runner.due(step), self._counters.steps
        if self._activations.modules:
            self._activations.begin(step, self.due, self._run)

    def end_microbatch(self, *, is_step: bool) -> None:
        """See `Engine.end_microbatch`."""
        if self._counters.loss_scale is not None:
            self._counters.loss_scale.sample()  # it may have been updated
        if is_step and self.due and self._counters.steps == self._steps_before:
            for metric_run in self.due:
                if "loss_scale" in metric_run.spec.metric.needs:
                    self.end_of_step.defer(metric_run, Context("step", self.step, self._run))

    def before_clip(self, scale: Tensor | None, optimizer: str | None, max_norm: float | None) -> None:
        """See `Engine.before_clip`."""
        if self.due:
            what = "looking at gradients before clipping"
            with self._guard(what, self.step, self._due(optimizer, "before_clip")):
                self._clipping.take(self._access, self.due, scale, optimizer, max_norm)

    def record_clipping(self, norm: Tensor | float, max_norm: float, *, by_deepspeed: bool = False) -> None:
        """See `Engine.record_clipping`."""
        if by_deepspeed != (self._info.deepspeed is not None):
            return  # ZeRO says it itself
        found = norm if type(norm) is Tensor else local(norm) if isinstance(norm, Tensor) else torch.tensor(norm)
        if found is None:
            return  # partial sums: only together with other ranks a norm
        self._counters.record_clipping(found, max_norm)
        if self.due:
            self._clipping.record_clipping(found, max_norm)

    # -- the optimizer's step --------------------------------------------------------------------------------------

    def _before_step(self, name: str, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if (compared := self._due(name, "weights_before")) and not self._training_abandoned():
            closure = any(given is not None for given in (*args[1:], *kwargs.values()))
            with self._guard("copying weights", self.step, compared):
                self._copies.take(self._access, self.due, name, closure=closure)

    def _after_step(self, name: str, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if name == self._first:
            self._counters.steps += 1
        if (
            self.due or (self._user_scalars.sums and self._user_scalars.due(self.step))
        ) and not self._training_abandoned():
            with self._guard("measuring", self.step, self._due(name)):
                deepspeed = self._info.deepspeed
                skipped = found_inf(optimizer) if deepspeed is None else deepspeed.skipped
                try:
                    self._run_due(name, skipped)
                except Exception as error:
                    if self._publisher.reducer is not None:
                        self._publisher.reducer.withdraw(error)
                    raise

    def _before_deepspeed_step(self) -> bool:
        """DeepSpeed's step begins, for which torch's hooks do not stand: it calls its optimizer once a group."""
        assert self._info.deepspeed is not None
        self.before_clip(self._info.deepspeed.loss_scale, self._first, None)
        self._before_step(self._first, self._info.optimizers[self._first], (), {})
        return bool(self.due)

    def _after_deepspeed_step(self) -> None:
        assert self._info.deepspeed is not None
        if (clipped := self._info.deepspeed.gradient_norm_and_limit) is not None:
            self.record_clipping(*clipped, by_deepspeed=True)
        self._after_step(self._first, self._info.optimizers[self._first], (), {})

    def _run_due(self, name: str, skipped: Tensor | None) -> None:
        started = self._clock()
        updates = self._copies.updates(self._access, name, skipped)
        self._charge(self._due(name, "weights_before"), started)
        context = Context(
            event="step",
            step=self.step,
            run=self._run,
            parameters=self._access.parameters,
            gradients=self._access.gradients(name),
            weights=self._access.weights(name),
            before_clip=self._clipping.gradients.get(name),
            updates=updates,
            skipped=skipped,
            optimizer_state=self._access.optimizer_state(name),
            clipping=self._info.clipping,
            spreads_nonfinite=self._info.spreads_nonfinite,
            clip_factor=self._clipping.clip_factor(),
            learning_rates=self._access.learning_rates(),
        )
        step_values = self.step_values()
        if name == self._first and (seen := self._activations.take()) is not None:
            step_values.update(seen)
        if self._user_scalars.due(self.step):
            step_values.add_local(self._user_scalars.pop())
        for metric_run in self._due(name):
            selected = replace(context, selection=metric_run.selection)
            if not self.end_of_step.defer(metric_run, selected):
                self._runner.run(metric_run, with_interval(metric_run, selected, self._counters), step_values)
        self._unsummed.flag(self._access, self.due, name, step_values)
        self._count(name, step_values)
        # What waits for the end of the step has its statistics; gradients would stay through the next backward pass.
        for tensors in (context.gradients, context.weights, updates):
            if tensors is not None:
                tensors.release()

    def _count(self, name: str, step_values: StepValues) -> None:
        """Counts histograms, all of them at once; those that write them share the cost."""
        started = self._clock()
        step_values.count_histograms(self._agree(name))
        self._charge([metric_run for metric_run in self._due(name) if metric_run.has_histograms], started)

    def _agree(self, name: str) -> Agree | None:
        """Makes ranges those of all ranks, where tensors are in pieces or each rank's own; all ask for the same."""
        reducer = self._publisher.reducer
        due = [metric_run for metric_run in self._due(name) if metric_run.has_histograms]
        if reducer is None or not (self._activations.watches(due) or (self._spread and due)):
            return None
        return partial(reducer.merge_ranges, self.step, self._runner.key(due))

    def _due(self, optimizer: str | None, need: str | None = None) -> list[MetricRun]:
        """What is due in the step of one optimizer, or of any; if a need is named, only what has it."""
        return [
            metric_run
            for metric_run in self.due
            if optimizer in (None, metric_run.optimizer) and (need is None or need in metric_run.spec.metric.needs)
        ]

    def _charge(self, metric_runs: Sequence[MetricRun], started: float) -> None:
        """These pay what was done since."""
        split_cost([metric_run.cost for metric_run in metric_runs], self._clock() - started, self.step)

    # -- what was measured -----------------------------------------------------------------------------------------

    def step_values(self, step: int | None = None) -> StepValues:
        """The batch of this step, or of another one at which the trainer logs, which the publisher holds."""
        key = self._runner.key(self.due)
        if step is None:
            return self._publisher.step_values(
                self.step, key or None
            )  # scalars of the user's own are no other rank's matter
        return self._publisher.step_values(step, key or ("log",))

    def finish_step(self) -> None:
        """The step is over: runs what has waited for it."""
        self.end_of_step.run_all(self._runner, self._counters, self._publisher)
