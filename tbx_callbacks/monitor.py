"""The engine: measures inside the optimizer's step what is due, and publishes each step as one batch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks.best import Best
from tbx_callbacks.context import Context, RunFacts, Tensors
from tbx_callbacks.counters import Counters, Stopwatch
from tbx_callbacks.facts import Setup
from tbx_callbacks.items import Cadence, Item
from tbx_callbacks.names import clean, unique
from tbx_callbacks.own import OwnScalars
from tbx_callbacks.plan import Entry, families, owners, plan, schedule_of
from tbx_callbacks.publish import Publisher
from tbx_callbacks.reduce import Batch, Finished
from tbx_callbacks.schedule import Schedule, never
from tbx_callbacks.select import Parameter, parameters_of
from tbx_callbacks.sinks import Sink
from tbx_callbacks.values import Facts, Number

logger = logging.getLogger(__name__)


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
    """

    def __init__(
        self, items: Sequence[Item], *, every: Cadence, strict: bool, sink: Sink, stopwatch: Stopwatch | None = None
    ) -> None:
        self.publisher = Publisher(sink)
        self._items, self._every, self._strict = tuple(items), every, strict
        self.stopwatch = stopwatch or Stopwatch()
        self._counters = Counters(self.stopwatch)
        # Numbers that the trainer logs before training (an evaluation) are taken too.
        self._entries = plan([item for item in self._items if item.select is None], every, (), never, {})
        self._own_schedule: Schedule = never
        self._by_schedule: dict[Schedule, list[Entry]] = {}
        self._parameters: tuple[Parameter, ...] = ()
        self._setup: Setup | None = None
        self._best = Best({})
        self._run = RunFacts()
        self._own = OwnScalars()
        self._hooks: list[Any] = []
        self._step = 0
        self._due: list[Entry] = []
        self._owners: Mapping[str, Sequence[int]] = {}
        self._before_clip: dict[str, Tensors] = {}
        self._clip_factor: Number | None = None
        self._unfinished: list[tuple[Entry, Context]] = []
        self._said: set[str] = set()

    # -- a run begins and ends -------------------------------------------------------------------------------------

    def start(self, setup: Setup) -> None:
        """Resolves the selections for this model and hooks into the optimizers.

        Raises:
            ConfigError: a regex matches no parameter, or two metrics would write the same tag.
        """
        self.detach()
        self._parameters = parameters_of(setup.model)
        self._owners = owners(self._parameters, setup.optimizers)
        self._entries = plan(self._whole(setup), self._every, self._parameters, setup.log_schedule, self._owners)
        self._own_schedule = schedule_of(self._every, setup.log_schedule)
        self._by_schedule = {}
        for entry in self._entries:
            if entry.on_steps:
                self._by_schedule.setdefault(entry.schedule, []).append(entry)
        self._setup, self._counters = setup, Counters(self.stopwatch)
        self._best = Best(setup.larger_is_better)
        for logs in setup.earlier_logs:
            self._best.update(logs)
        self._run = RunFacts(setup.hparams, setup.texts, families(self._entries), self._best.values)
        for place, (name, optimizer) in enumerate(setup.optimizers.items()):
            self._hooks.append(optimizer.register_step_post_hook(self._hook(name, first=place == 0)))
        self.publisher.write(0, self._call("start", 0))
        self.stopwatch.resume()

    def _whole(self, setup: Setup) -> list[Item]:
        """The items that can be right: a shard's norm is not the parameter's, so none is written in its place."""
        if setup.sharding is None:
            return list(self._items)
        left_out = sorted({item.name for item in self._items if item.select is not None})
        if left_out:
            logger.warning(
                "parameters are spread over ranks by %s, which these metrics cannot read yet: %s; they are left out",
                setup.sharding,
                ", ".join(left_out),
            )
        return [item for item in self._items if item.select is None]

    def end(self, step: int, *, succeeded: bool) -> None:
        """Publishes what is left and writes how the run ended. Numbers that the trainer logs later are still taken."""
        self.publish()
        self.detach()
        self.stopwatch.pause()
        self._run = replace(self._run, succeeded=succeeded)
        self.publisher.write(step, {**self._left().numbers({}), **self._call("end", step)})
        self.publisher.sink.flush()

    def detach(self) -> None:
        """Removes every hook."""
        while self._hooks:
            self._hooks.pop().remove()

    # -- one step --------------------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """A step begins; `step` is the number it will have when it is finished (1-based)."""
        self.publish()
        self.stopwatch.resume()
        self._step, self._before_clip, self._clip_factor = step, {}, None
        self._due = [entry for due, entries in self._by_schedule.items() if due(step) for entry in entries]

    @property
    def needs(self) -> frozenset[str]:
        """What the metrics need at any step of the run."""
        return frozenset(need for entry in self._entries for need in entry.item.metric.needs)

    def batch(self, *, loss: Tensor | None, samples: int, tokens: Tensor | None) -> None:
        """One micro-batch went through the model."""
        self._counters.batch(loss=loss, samples=samples, tokens=tokens)

    def before_clip(
        self, scale: Tensor | None = None, *, optimizer: str | None = None, max_norm: float | None = None
    ) -> None:
        """All gradients of this step are there and not yet clipped.

        Args:
            scale: the loss scale that they still carry.
            optimizer: name of the optimizer whose step comes; all of them when left out.
            max_norm: the limit, where the trainer will clip by the norm of all these gradients.
        """
        if not self._due:
            return
        for name in self._owners if optimizer is None else (optimizer,):
            needs = {need for entry in self._due if entry.optimizer == name for need in entry.item.metric.needs}
            if "before_clip" in needs and name not in self._before_clip:
                with self._safely("looking at gradients before clipping"), torch.no_grad():
                    self._before_clip[name] = self._gradients(name, scale).measured(nonfinite="nonfinite" in needs)
                if max_norm is not None:
                    norm = self._before_clip[name].squares.sum().sqrt()
                    self._clip_factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)

    def clipped(self, norm: Tensor | float, max_norm: float) -> None:
        """The trainer clipped this step's gradients, which had this norm."""
        norm = norm if isinstance(norm, Tensor) else torch.tensor(norm)
        self._counters.clip(norm, max_norm)
        if self._due:
            self._clip_factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)

    def log(self, tag: str, value: Tensor | float) -> None:
        """Adds a scalar of the user's own to the mean that is written under `tag` at the next point.

        Raises:
            ValueError: the tag would be rewritten by TensorBoard, belongs to a metric, or the value is not a scalar.
        """
        families = [t.partition("<")[0] for e in self._entries for t in e.item.metric.tags if "<" in t]
        if any(tag in entry.tags for entry in self._entries) or tag.startswith(
            tuple(family for family in families if family != "train/")
        ):
            raise ValueError(f"a tag of your own must not be one that a metric writes, got {tag!r}; choose another")
        self._own.add(tag, value)

    # -- measuring -------------------------------------------------------------------------------------------------

    def _hook(self, name: str, *, first: bool) -> Callable[..., None]:
        def after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001
            self._counters.steps += first
            own_due = bool(self._own) and self._own_schedule(self._step)
            if self._due or own_due:
                with self._safely("measuring"), torch.no_grad():
                    self._measure(name, own_due=own_due)

        return after_step

    def _gradients(self, name: str, scale: Tensor | None = None) -> Tensors:
        """Gradients of one optimizer's parameters; those of others may be left from another step."""
        owned = set(self._owners[name])
        grads = [p.tensor.grad if place in owned else None for place, p in enumerate(self._parameters)]
        return Tensors(grads, scale)

    def _measure(self, name: str, *, own_due: bool) -> None:
        assert self._setup is not None
        owned = set(self._owners[name])
        context = Context(
            event="step",
            step=self._step,
            run=self._run,
            parameters=self._parameters,
            gradients=self._gradients(name),
            weights=Tensors([p.tensor if place in owned else None for place, p in enumerate(self._parameters)]),
            before_clip=self._before_clip.get(name),
            clipping=self._setup.clipping,
            spreads_nonfinite=self._setup.spreads_nonfinite,
            clip_factor=self._clip_factor,
            learning_rates=_learning_rates(self._setup.optimizers),
        )
        batch = self.publisher.batch(self._step)
        if own_due:
            batch.add(self._own.take())
        for entry in self._due:
            if entry.optimizer != name:
                continue
            selected = replace(context, selection=entry.selection)
            if "batches" in entry.item.metric.needs:
                self._finish_later(entry, selected)
            else:
                self._add(batch, entry, self._with_interval(entry, selected))

    def _finish_later(self, entry: Entry, context: Context) -> None:
        """Takes the tensors' statistics now; the step's micro-batches are complete only when the step is published."""
        if entry.item.select is not None:
            nonfinite = "nonfinite" in entry.item.metric.needs
            for tensors in (context.gradients, context.weights):
                tensors.take(nonfinite=nonfinite)
        self._unfinished.append((entry, context))

    def _finish(self) -> None:
        unfinished, self._unfinished = self._unfinished, []
        for entry, context in unfinished:
            self._add(self.publisher.batch(context.step), entry, self._with_interval(entry, context))

    def _with_interval(self, entry: Entry, context: Context) -> Context:
        now = self._counters.totals()
        interval, entry.last = now.since(entry.last), now
        return replace(context, interval=interval)

    def _call(self, event: str, step: int, logs: Mapping[str, Number | str] | None = None) -> dict[str, Finished]:
        """Values of the metrics that are written at an event other than a step."""
        batch = Batch()
        for entry in list(self._entries):
            if event in entry.item.metric.events:
                self._add(batch, entry, Context(event=event, step=step, run=self._run, logs=logs or {}))
        return batch.numbers({})

    def _add(self, batch: Batch, entry: Entry, context: Context) -> None:
        """Adds what a metric returns; an error is reported once under the metric's name and switches it off."""
        if entry not in self._entries:
            return
        try:
            batch.add(entry.item.metric(context))
        except Exception as error:
            if self._strict:
                raise RuntimeError(f"metric {entry.item.name} failed at step {context.step}: {error}") from error
            tags = ", ".join(entry.item.metric.tags)
            logger.warning(
                "metric %s failed at step %d and is switched off; %s will be missing: %r",
                entry.item.name,
                context.step,
                tags,
                error,
            )
            self._entries.remove(entry)

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, facts: Facts | None = None) -> None:
        """Hands the measured step to the sink. `facts` are numbers that the trainer gave for it, as `clip_factor`."""
        if not self.publisher.holds and not self._unfinished:  # a step with nothing due, as most are
            return
        with self._safely("publishing"):
            self._finish()
            self.publisher.publish(facts)

    def logged(self, step: int, logs: Mapping[str, Number | str], facts: Facts | None = None) -> None:
        """The trainer logged numbers (by tag) after `step` steps; they travel with what was measured at that step."""
        with self._safely("publishing"):
            self._finish()
            self._best.update(logs)
            left = Batch() if self._hooks else self._left()
            self.publisher.publish_with(step, {**left.numbers({}), **self._call("log", step, logs)}, facts)

    @contextlib.contextmanager
    def _safely(self, what: str) -> Iterator[None]:
        """Nothing of ours may end the training: an error is said once, and what it concerns is left out."""
        try:
            yield
        except Exception as error:
            if self._strict:
                raise
            if what not in self._said:
                self._said.add(what)
                logger.warning("%s failed at step %d; its numbers are left out: %r", what, self._step, error)

    def _left(self) -> Batch:
        """The user's own scalars that wait for a point that does not come: no training is on."""
        left = Batch()
        left.add(self._own.take())
        return left


def _learning_rates(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Number]:
    rates: dict[str, Number] = {}
    for name, optimizer in optimizers.items():
        groups = [clean(str(group.get("name") or f"pg{n}")) for n, group in enumerate(optimizer.param_groups, 1)]
        for group_name, group in zip(unique(groups), optimizer.param_groups, strict=True):
            rate = group["lr"]
            # A tensor is changed in place by the scheduler before the step is published.
            rates[f"{name}/{group_name}"] = rate.detach().clone().reshape(()) if isinstance(rate, Tensor) else rate
    return rates
