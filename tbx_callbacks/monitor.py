"""The engine: measures inside the optimizer's step what is due, and publishes each step as one batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks.activations import Activations
from tbx_callbacks.amp import found_inf, loss_scale
from tbx_callbacks.before import Clipping, Copies
from tbx_callbacks.best import Best
from tbx_callbacks.budget import Budget
from tbx_callbacks.context import Context, RunFacts
from tbx_callbacks.counters import Counters, Stopwatch
from tbx_callbacks.decisions import Decisions
from tbx_callbacks.facts import Setup
from tbx_callbacks.items import Cadence, Item
from tbx_callbacks.late import Late, with_interval
from tbx_callbacks.outputs import Predictions
from tbx_callbacks.own import OwnScalars
from tbx_callbacks.plan import Entry, alone, families, plan, schedule_of, whole
from tbx_callbacks.program import Guard, Program, needs_of
from tbx_callbacks.publish import Publisher
from tbx_callbacks.ranks import world_size
from tbx_callbacks.reduce import Agree, Batch
from tbx_callbacks.replicas import apart
from tbx_callbacks.schedule import Schedule, never
from tbx_callbacks.shards import local
from tbx_callbacks.sinks import Sink
from tbx_callbacks.source import Source
from tbx_callbacks.together import join
from tbx_callbacks.values import Facts, Number, Text, Value

logger = logging.getLogger(__name__)

_PATIENCE, _SHORT_PATIENCE = 30.0, 5.0  # seconds that the end of a training waits for other ranks; of one that failed


class Monitor:
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
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        every: Cadence,
        strict: bool,
        sink: Sink,
        stopwatch: Stopwatch | None = None,
        budget: float | None = None,
    ) -> None:
        self.publisher = Publisher(sink)
        self.stopwatch = stopwatch or Stopwatch()
        self._items, self._every, self._strict = tuple(items), every, strict
        self._safely = Guard(strict=strict, stopwatch=self.stopwatch)
        self._counters = Counters(self.stopwatch)
        # Numbers that the trainer logs before training (an evaluation) are taken too.
        early = plan([item for item in self._items if item.select is None], every, (), never, {})
        self._program = Program(early, strict=strict, clock=self.stopwatch.clock)
        self._decisions = Decisions()
        self._share, self._budget = budget, Budget(None, self.stopwatch, self._program, self._decisions)
        self._first = ""
        self._source: Source | None = None
        self._setup: Setup | None = None
        self._best = Best({})
        self._run = RunFacts()
        self._own = OwnScalars()
        self._own_schedule: Schedule = never
        self._hooks: list[Any] = []
        self._step = self._steps_before = 0
        self._partial = self._spread = False
        self._due: list[Entry] = []
        self._clipping, self._copies = Clipping(), Copies()
        self._activations = Activations(
            nn.Module(), Program((), strict=strict, clock=self.stopwatch.clock), compiled=False
        )
        self._late = Late()

    # -- a run begins and ends -------------------------------------------------------------------------------------

    def start(self, setup: Setup) -> None:
        """Resolves the selections for this model and hooks into the optimizers.

        Raises:
            ConfigError: a regex matches no parameter, or two metrics would write the same tag.
        """
        self.detach()
        self.publisher.meet(ranks := join())
        self._partial = ranks is None and world_size() > 1
        source = Source(setup.model, setup.optimizers, ranks, setup.zero)
        items = whole(self._items, setup.sharding or apart(source.parameters, ranks, source.pieces))
        if ranks is None and world_size() > 1:
            items = alone(items, spread=source.spread)
        self._spread = ranks is not None and ranks.largest({"spread": float(source.spread)}).get("spread") == 1
        entries = plan(items, self._every, source.parameters, setup.log_schedule, source.owners, ranks)
        self._program = Program(entries, strict=self._strict, clock=self.stopwatch.clock, shared=ranks is not None)
        self._decisions = Decisions() if ranks is None else ranks.decisions
        self._budget = Budget(self._share, self.stopwatch, self._program, self._decisions)
        self._activations = Activations(setup.model, self._program, compiled=setup.compiled, ranks=ranks)
        self._own_schedule = schedule_of(self._every, setup.log_schedule)
        self._setup, self._source = setup, source
        scaler = setup.scaler if "loss_scale" in self.needs else None
        self._counters = Counters(self.stopwatch, loss_scale(scaler), Predictions(setup.model))
        self._best = Best(setup.larger_is_better)
        for logs in setup.earlier_logs:
            self._best.update(logs)
        self._run = RunFacts(setup.hparams, setup.texts, families(entries), self._best.values)
        self._first = next(iter(setup.optimizers))
        if setup.zero is not None:
            name = self._first
            self._hooks.append(setup.zero.watch(partial(self._before_zero, name), partial(self._after_zero, name)))
        for name, optimizer in setup.optimizers.items() if setup.zero is None else ():
            if "weights_before" in needs_of(entries, name):
                self._hooks.append(optimizer.register_step_pre_hook(partial(self._before_step, name)))
            self._hooks.append(optimizer.register_step_post_hook(partial(self._after_step, name)))
        self.publisher.write(0, self._program.call(Context("start", 0, self._run)).numbers({}))
        self.stopwatch.resume()

    def end(self, step: int, *, succeeded: bool) -> None:
        """Publishes what is left and writes how the run ended. Numbers that the trainer logs later are still taken."""
        self.publish()
        self.detach()
        self.stopwatch.pause()
        self._drain(_PATIENCE if succeeded else _SHORT_PATIENCE)
        self._run = replace(self._run, succeeded=succeeded)
        ended = self._program.call(Context("end", step, self._run))
        self.publisher.write(step, {**self._left().numbers({}), **ended.numbers({})})
        self.publisher.sink.flush()

    def _drain(self, seconds: float) -> None:
        """What was measured together is written, as far as the other ranks answer; they are not asked again."""
        ranks = self.publisher.ranks
        if ranks is not None and not ranks.drain(seconds):
            logger.warning("other ranks did not answer in %.0f s at the end; what waits for them is lost", seconds)
            ranks.let_go(0.0)
        self.publisher.part()

    def detach(self) -> None:
        """Removes every hook."""
        while self._hooks:
            self._hooks.pop().remove()
        self._copies.clear()
        self._activations.end()

    @property
    def needs(self) -> frozenset[str]:
        """What the metrics need at any step of the run."""
        return self._program.needs

    # -- one step --------------------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """A step begins; `step` is the number it will have when it is finished (1-based)."""
        self.publish()
        self.stopwatch.resume()
        self._step, self._clipping = step, Clipping()
        self._due, self._steps_before = self._program.due(step), self._counters.steps
        if self._due and self._decisions.wait():
            with self._safely("acting upon decisions", step):
                if self._decisions.take():
                    self._due = self._program.due(step)
        self._activations.begin(step, self._due, self._run)

    def pass_ended(self, *, is_step: bool) -> None:
        """A pass of the trainer's loop is over; `is_step`: it counts as a step even if no optimizer was called."""
        self._counters.updated()
        if is_step and self._counters.steps == self._steps_before:
            for entry in self._due:
                if "loss_scale" in entry.item.metric.needs:
                    self._late.takes(entry, Context("step", self._step, self._run))

    def batch(self, *, loss: Tensor | None, samples: int, tokens: Tensor | None) -> None:
        """One micro-batch went through the model."""
        if not self._partial:
            self._counters.batch(loss=loss, samples=samples, tokens=tokens)

    def outputs(self, outputs: Any, labels: Any) -> None:
        """What the model returned for a micro-batch of training (a mapping, or its logits), and the batch's labels."""
        with self._safely("looking at outputs", self._step):
            if "losses" in self.needs:
                self._counters.extra_losses.add(outputs)
            if "predictions" in self.needs:
                self._counters.predictions.add(outputs, labels)

    def before_clip(
        self, scale: Tensor | None = None, *, optimizer: str | None = None, max_norm: float | None = None
    ) -> None:
        """All gradients of this step are there and not yet clipped.

        Args:
            scale: the loss scale that they still carry.
            optimizer: name of the optimizer whose step comes; all of them when left out.
            max_norm: the limit, where the trainer will clip by the norm of all these gradients.
        """
        if self._due and self._source is not None:
            with self._safely("looking at gradients before clipping", self._step), torch.no_grad():
                self._clipping.look(self._source, self._due, scale, optimizer, max_norm)

    def clipped(self, norm: Tensor | float, max_norm: float) -> None:
        """The trainer clipped this step's gradients, which had this norm."""
        if self._source is None or self._source.zero is None:  # ZeRO says it itself
            self._clipped(norm, max_norm)

    def _clipped(self, norm: Tensor | float, max_norm: float) -> None:
        found = local(norm) if isinstance(norm, Tensor) else torch.tensor(norm)
        if found is None:
            return  # partial sums: only together with other ranks a norm
        norm = found
        self._counters.clip(norm, max_norm)
        if self._due:
            self._clipping.clipped(norm, max_norm)

    def log(self, tag: str, value: Tensor | float) -> None:
        """Adds a scalar of the user's own to the mean that is written under `tag` at the next point.

        Raises:
            ValueError: the tag would be rewritten by TensorBoard, belongs to a metric, or the value is not a scalar.
        """
        if self._program.reserves(tag):
            raise ValueError(f"a tag of your own must not be one that a metric writes, got {tag!r}; choose another")
        self._own.add(tag, value)

    # -- measuring -------------------------------------------------------------------------------------------------

    def _before_step(self, name: str, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._source is not None and "weights_before" in needs_of(self._due, name):
            closure = any(given is not None for given in (*args[1:], *kwargs.values()))
            with self._safely("copying weights", self._step), torch.no_grad():
                self._copies.take(self._source, self._due, name, closure=closure)

    def _after_step(self, name: str, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._counters.steps += name == self._first
        own_due = bool(self._own) and self._own_schedule(self._step)
        if self._due or own_due:
            with self._safely("measuring", self._step), torch.no_grad():
                zero = self._setup.zero if self._setup is not None else None
                skipped = found_inf(optimizer) if zero is None else zero.skipped
                try:
                    self._measure(name, skipped, own_due=own_due)
                except Exception as error:
                    if self.publisher.ranks is not None:
                        self.publisher.ranks.leave(error)
                    raise

    def _before_zero(self, name: str) -> bool:
        """DeepSpeed's step begins, for which torch's hooks do not stand: it calls its optimizer once a group."""
        assert self._setup is not None
        assert self._setup.zero is not None
        self.before_clip(self._setup.zero.loss_scale, optimizer=name)
        self._before_step(name, self._setup.optimizers[name], (), {})
        return bool(self._due)

    def _after_zero(self, name: str) -> None:
        assert self._setup is not None
        assert self._setup.zero is not None
        if (clipped := self._setup.zero.clipped) is not None:
            self._clipped(*clipped)
        self._after_step(name, self._setup.optimizers[name], (), {})

    def _measure(self, name: str, skipped: Tensor | None, *, own_due: bool) -> None:
        assert self._setup is not None
        assert self._source is not None
        updates = self._copies.updates(self._source, name, skipped)
        context = Context(
            event="step",
            step=self._step,
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
        batch = self.publisher.batch(self._step, self._program.key(self._due))
        if name == self._first and (seen := self._activations.take()) is not None:
            batch.join(seen)
        if own_due:
            self._add_own(batch)
        for entry in self._due:
            if entry.optimizer != name:
                continue
            selected = replace(context, selection=entry.selection)
            if not self._late.takes(entry, selected):
                self._program.run(entry, with_interval(entry, selected, self._counters), batch)
        batch.count(self._agree(name))
        if updates is not None:
            updates.forget()

    def _agree(self, name: str) -> Agree | None:
        """Makes ranges those of all ranks, where tensors are in pieces or each rank's own; all ask for the same."""
        ranks = self.publisher.ranks
        due = [entry for entry in self._due if entry.optimizer == name and entry.has_histograms]
        if ranks is None or not (self._activations.watches(due) or (self._spread and due)):
            return None
        return partial(ranks.agree, self._step, self._program.key(due))

    def _add_own(self, batch: Batch) -> None:
        """The user's own scalars are not merged: ranks need not log the same ones."""
        own = Batch()
        own.add(self._own.take())
        batch.finished.update(own.numbers({}))

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, facts: Facts | None = None) -> None:
        """Hands the measured step to the sink. `facts` are numbers that the trainer gave for it, as `clip_factor`."""
        if not self.publisher.holds and not self._late:  # a step with nothing due, as most are
            return
        with self._safely("publishing", self._step):
            self._late.finish(self._program, self._counters, self.publisher)
            self.publisher.publish(facts)
        self._keep_budget()

    def logged(
        self,
        step: int,
        logs: Mapping[str, Number | str],
        facts: Facts | None = None,
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
            if shared is not None and self._program.logs and not self._partial:
                self.publisher.batch(step, self._program.key(self._due) or ("log",)).add(shared)
            self._best.update(logs)
            numbers = self._program.call(Context("log", step, self._run, logs=logs)).numbers({})
            self._program.give_way(numbers)
            self._late.finish(self._program, self._counters, self.publisher)
            left = Batch() if self._hooks else self._left()
            self.publisher.publish_with(step, {**left.numbers({}), **numbers}, facts)
        self._keep_budget()

    def _keep_budget(self) -> None:
        said = self._budget.decide()
        if said is not None:
            self.publisher.write(self._step, {"overhead_budget": Text(said)})

    def _left(self) -> Batch:
        """The user's own scalars that wait for a point that does not come: no training is on."""
        left = Batch()
        left.add(self._own.take())
        return left
