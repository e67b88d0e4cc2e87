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
        safely: catches errors.
        spread: whether ranks hold pieces of tensors.

    Raises:
        ConfigError: a regex matches no module.
    """

    def __init__(
        self,
        setup: TrainingInfo,
        source: ModelAccess,
        program: MetricRunner,
        run: RunInfo,
        *,
        publisher: Publisher,
        counters: Counters,
        own: UserScalars,
        safely: Guard,
        spread: bool,
    ) -> None:
        self._setup, self._source, self._program, self._run = setup, source, program, run
        self._publisher, self._counters, self._own = publisher, counters, own
        self._spread = spread
        self._spending = ChargedGuard(safely, DeviceTime(counters.stopwatch, marks_of(source.device)))
        self._activations = Activations(
            setup.model,
            program,
            compiled=setup.compiled,
            ranks=publisher.ranks,
            spending=self._spending,
            left=self._left,
        )
        self._clipping, self._copies = GradientSnapshot(), WeightSnapshot()
        self._unsummed = PartialGradients()
        self.late = EndOfStepRuns()
        """Metrics that wait for the end of their step."""
        self.scales = counters.loss_scale is not None
        """Whether a loss scale is watched."""
        self._first, self._clock = next(iter(setup.optimizers)), counters.stopwatch.clock
        self._steps_before = self.step = 0
        self.due: list[MetricRun] = []
        """What is measured in this step."""
        self._hooks = self._attach()

    def _attach(self) -> list[Any]:
        zero = self._setup.zero
        if zero is not None:
            return [zero.watch(self._before_zero, self._after_zero)]
        hooks: list[Any] = []
        for name, optimizer in self._setup.optimizers.items():
            if "weights_before" in needs_of(self._program.entries, name):
                hooks.append(optimizer.register_step_pre_hook(partial(self._before_step, name)))
            hooks.append(optimizer.register_step_post_hook(partial(self._after_step, name)))
        return hooks

    def detach(self) -> None:
        """Removes every hook and forgets what is left of a step that raised."""
        while self._hooks:
            self._hooks.pop().remove()
        self._copies.clear()
        self._activations.end()

    def let_go(self) -> None:
        """As `detach`, of a training that may have been left by an exception; it goes on with the next step if not."""
        self.detach()
        self.due = []

    def _left(self) -> bool:
        """Whether the training was left and did not say so; nothing of it stays in the model and the optimizers."""
        left = not self._setup.trains()
        if left:
            self.let_go()
        return left

    # -- one step --------------------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """A step begins; see `Engine.begin_step`."""
        if self.due:
            self._clipping = GradientSnapshot()
        if not self._hooks:
            self._hooks = self._attach()  # it was let go
        self.step, self.due, self._steps_before = step, self._program.due(step), self._counters.steps
        if self._activations.modules:
            self._activations.begin(step, self.due, self._run)

    def pass_ended(self, *, is_step: bool) -> None:
        """See `Engine.pass_ended`."""
        if self._counters.loss_scale is not None:
            self._counters.loss_scale.sample()  # it may have been updated
        if is_step and self.due and self._counters.steps == self._steps_before:
            for entry in self.due:
                if "loss_scale" in entry.item.metric.needs:
                    self.late.takes(entry, Context("step", self.step, self._run))

    def before_clip(self, scale: Tensor | None, optimizer: str | None, max_norm: float | None) -> None:
        """See `Engine.before_clip`."""
        if self.due:
            what = "looking at gradients before clipping"
            with self._spending(what, self.step, self._due(optimizer, "before_clip")):
                self._clipping.look(self._source, self.due, scale, optimizer, max_norm)

    def clipped(self, norm: Tensor | float, max_norm: float, *, by_zero: bool = False) -> None:
        """See `Engine.clipped`."""
        if by_zero != (self._setup.zero is not None):
            return  # ZeRO says it itself
        found = norm if type(norm) is Tensor else local(norm) if isinstance(norm, Tensor) else torch.tensor(norm)
        if found is None:
            return  # partial sums: only together with other ranks a norm
        self._counters.clip(found, max_norm)
        if self.due:
            self._clipping.clipped(found, max_norm)

    # -- the optimizer's step --------------------------------------------------------------------------------------

    def _before_step(self, name: str, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if (compared := self._due(name, "weights_before")) and not self._left():
            closure = any(given is not None for given in (*args[1:], *kwargs.values()))
            with self._spending("copying weights", self.step, compared):
                self._copies.take(self._source, self.due, name, closure=closure)

    def _after_step(self, name: str, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if name == self._first:
            self._counters.steps += 1
        if (self.due or (self._own.sums and self._own.due(self.step))) and not self._left():
            with self._spending("measuring", self.step, self._due(name)):
                zero = self._setup.zero
                skipped = found_inf(optimizer) if zero is None else zero.skipped
                try:
                    self._measure(name, skipped)
                except Exception as error:
                    if self._publisher.ranks is not None:
                        self._publisher.ranks.leave(error)
                    raise

    def _before_zero(self) -> bool:
        """DeepSpeed's step begins, for which torch's hooks do not stand: it calls its optimizer once a group."""
        assert self._setup.zero is not None
        self.before_clip(self._setup.zero.loss_scale, self._first, None)
        self._before_step(self._first, self._setup.optimizers[self._first], (), {})
        return bool(self.due)

    def _after_zero(self) -> None:
        assert self._setup.zero is not None
        if (clipped := self._setup.zero.clipped) is not None:
            self.clipped(*clipped, by_zero=True)
        self._after_step(self._first, self._setup.optimizers[self._first], (), {})

    def _measure(self, name: str, skipped: Tensor | None) -> None:
        started = self._clock()
        updates = self._copies.updates(self._source, name, skipped)
        self._share(self._due(name, "weights_before"), started)
        context = Context(
            event="step",
            step=self.step,
            run=self._run,
            parameters=self._source.parameters,
            gradients=self._source.gradients(name),
            weights=self._source.weights(name),
            before_clip=self._clipping.gradients.get(name),
            updates=updates,
            skipped=skipped,
            state=self._source.state(name),
            clipping=self._setup.clipping,
            spreads_nonfinite=self._setup.spreads_nonfinite,
            clip_factor=self._clipping.written(),
            learning_rates=self._source.learning_rates(),
        )
        batch = self.batch()
        if name == self._first and (seen := self._activations.take()) is not None:
            batch.join(seen)
        if self._own.due(self.step):
            batch.add_own(self._own.take())
        for entry in self._due(name):
            selected = replace(context, selection=entry.selection)
            if not self.late.takes(entry, selected):
                self._program.run(entry, with_interval(entry, selected, self._counters), batch)
        self._unsummed.flag(self._source, self.due, name, batch)
        self._count(name, batch)
        # What waits for the end of the step has its statistics; gradients would stay through the next backward pass.
        for tensors in (context.gradients, context.weights, updates):
            if tensors is not None:
                tensors.forget()

    def _count(self, name: str, batch: StepValues) -> None:
        """Counts histograms, all of them at once; those that write them share the cost."""
        started = self._clock()
        batch.count(self._agree(name))
        self._share([entry for entry in self._due(name) if entry.has_histograms], started)

    def _agree(self, name: str) -> Agree | None:
        """Makes ranges those of all ranks, where tensors are in pieces or each rank's own; all ask for the same."""
        ranks = self._publisher.ranks
        due = [entry for entry in self._due(name) if entry.has_histograms]
        if ranks is None or not (self._activations.watches(due) or (self._spread and due)):
            return None
        return partial(ranks.agree, self.step, self._program.key(due))

    def _due(self, optimizer: str | None, need: str | None = None) -> list[MetricRun]:
        """What is due in the step of one optimizer, or of any; if a need is named, only what has it."""
        return [
            entry
            for entry in self.due
            if optimizer in (None, entry.optimizer) and (need is None or need in entry.item.metric.needs)
        ]

    def _share(self, entries: Sequence[MetricRun], started: float) -> None:
        """These pay what was done since."""
        split_cost([entry.cost for entry in entries], self._clock() - started, self.step)

    # -- what was measured -----------------------------------------------------------------------------------------

    def batch(self, step: int | None = None) -> StepValues:
        """The batch of this step, or of another one at which the trainer logs, which the publisher holds."""
        key = self._program.key(self.due)
        if step is None:
            return self._publisher.batch(self.step, key or None)  # scalars of the user's own are no other rank's matter
        return self._publisher.batch(step, key or ("log",))

    def finish(self) -> None:
        """The step is over: runs what has waited for it."""
        self.late.finish(self._program, self._counters, self._publisher)
