"""Runs the due metrics, and disables those that fail."""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tbx_callbacks import tags
from tbx_callbacks._config.schedule import At, Every, Schedule, first_after
from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._engine.counters import Counters
from tbx_callbacks._engine.metric_plan import MetricRun
from tbx_callbacks._engine.publisher import Publisher
from tbx_callbacks._extensions import OUTSIDE_ERRORS
from tbx_callbacks._model.parameters import NO_SELECTION
from tbx_callbacks._text import reason
from tbx_callbacks.metrics.base import Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.value_layouts import check_can_travel
from tbx_callbacks.metrics.values import Derived, Mean, Value

logger = logging.getLogger(__name__)


_PACKAGE = os.path.dirname(tags.__file__)
_END_OF_STEP_NEEDS = frozenset({"bad_batches", "batches", "examples", "loss_scale", "losses"})
_END_OF_STEP_NEEDS |= {"microbatches", "padding", "predictions", "wiring"}


class MetricRunner:
    """Runs metrics by their schedules.

    Args:
        metric_runs: the result of `plan`.
        strict: raise errors of metrics instead of disabling them.
        clock: times the metrics.
        shared: whether other ranks run the same metrics. One that fails on this rank stays due, and flags its failure.
    """

    def __init__(
        self, metric_runs: Sequence[MetricRun], *, strict: bool, clock: Callable[[], float], shared: bool = False
    ) -> None:
        self.metric_runs, self._strict, self._clock = list(metric_runs), strict, clock
        self._shared, self._owners = shared, dict[MetricRun, str]()
        self._known: dict[tuple[int, str], MetricRun] = {}  # also those that were disabled
        self._failed: set[MetricRun] = set()
        self.needs = needs_of(metric_runs)
        """The needs of all metrics."""
        self.edges: frozenset[int] = frozenset()
        """Steps at which histograms have a point in any case: the first one, and the last one if it is known."""
        self._register(metric_runs)

    def _register(self, metric_runs: Sequence[MetricRun]) -> None:
        for metric_run in metric_runs:
            self._known[id(metric_run.spec), metric_run.optimizer] = metric_run
            self._owners[metric_run] = f"{len(self._owners)} {metric_run.spec.name}" if self._shared else ""
        self.regroup()

    def update(self, planned: Sequence[MetricRun]) -> None:
        """Takes over the selections of a new plan for the same metrics, because the model or an optimizer has changed.

        Metrics keep their counts, costs and schedules. Those of a new optimizer are added.
        """
        selections = {(id(metric_run.spec), metric_run.optimizer): metric_run for metric_run in planned}
        for key, metric_run in self._known.items():
            new = selections.get(key)
            metric_run.selection, metric_run.tags = (new.selection, new.tags) if new else (NO_SELECTION, {})
        added = [metric_run for key, metric_run in selections.items() if key not in self._known]
        self.metric_runs += added
        self.needs = needs_of(self.metric_runs)
        self._register(added)

    def regroup(self) -> None:
        """Groups the metrics by schedule; call it after schedules have changed."""
        self._by_period: dict[int, list[MetricRun]] = {}  # for most schedules, without calling them
        self._others: dict[Schedule, list[MetricRun]] = {}
        for metric_run in self.metric_runs:
            if metric_run.runs_on_steps and isinstance(metric_run.schedule, Every):
                self._by_period.setdefault(metric_run.schedule.n, []).append(metric_run)
            elif metric_run.runs_on_steps:
                self._others.setdefault(metric_run.schedule, []).append(metric_run)

    def key(self, due: Sequence[MetricRun]) -> tuple[str, ...]:
        """Identifies the due metrics, in the same way on every rank."""
        return tuple(self._owners[metric_run] for metric_run in due)

    @property
    def step_runs(self) -> list[MetricRun]:
        """The metrics that run on steps, except those that have failed."""
        return [
            metric_run for metric_run in self.metric_runs if metric_run.runs_on_steps and metric_run not in self._failed
        ]

    def due(self, step: int) -> list[MetricRun]:
        """The metrics that are due at this step."""
        due: list[MetricRun] = []
        for n, metric_runs in self._by_period.items():
            if step % n == 0:
                due += metric_runs
        for schedule, metric_runs in self._others.items():
            if schedule(step):
                due += metric_runs
        if step in self.edges:
            due += [metric_run for metric_run in self.histogram_runs if metric_run not in due]
        return due

    def first_due_after(self, step: int) -> float:
        """A step after `step` before which no metric is due; see `first_after`."""
        schedules: list[Schedule] = [*map(Every, self._by_period), *self._others, At(self.edges)]
        return min(first_after(schedule, step) for schedule in schedules)

    @property
    def histogram_runs(self) -> list[MetricRun]:
        """The metrics that write histograms of parameters at regular steps, except those that have failed."""
        return [
            metric_run
            for metric_run in self.step_runs
            if metric_run.has_histograms and metric_run.spec.select is not None
            if not isinstance(metric_run.schedule, At)
        ]

    @property
    def wiring_runs(self) -> list[MetricRun]:
        """The metrics that read checks of the training, except those that have failed."""
        return [metric_run for metric_run in self.step_runs if "wiring" in metric_run.spec.metric.needs]

    @property
    def logged_runs(self) -> list[MetricRun]:
        """The metrics that run when the trainer logs (`every: log`), except those that have failed."""
        return [metric_run for metric_run in self.step_runs if metric_run.follows_logs]

    @property
    def writes_logs(self) -> bool:
        """Whether the set writes the trainer's own values."""
        return any("log" in metric_run.spec.metric.events for metric_run in self.metric_runs)

    def owns_tag(self, tag: str) -> bool:
        """Whether the tag belongs to a metric."""
        families = {
            t.partition("<")[0] for metric_run in self.metric_runs for t in metric_run.spec.metric.tags if "<" in t
        }
        has_prefix = tag.startswith(tuple(families - {f"{tags.TRAIN}/"}))
        return has_prefix or any(tag in metric_run.tags for metric_run in self.metric_runs)

    def run_event(self, context: Context, step_values: StepValues) -> StepValues:
        """Adds the values of the metrics that run at an event other than a step."""
        for metric_run in list(self.metric_runs):
            if context.event in metric_run.spec.metric.events:
                self.run(metric_run, replace(context, state=metric_run.state), step_values)
        return step_values

    def run(self, metric_run: MetricRun, context: Context, step_values: StepValues) -> None:
        """Adds a metric's values. An error is logged once with the metric's name, and disables the metric."""
        if metric_run not in self.metric_runs:
            return
        name, owner, started = metric_run.spec.name, self._owners[metric_run], self._clock()
        if metric_run in self._failed:
            step_values.flag_failure(owner, failed=True)
            return
        try:
            values = metric_run.spec.metric(context)
            if metric_run.is_outside and isinstance(values, Mapping):  # StepValues refuses other types
                _check_tags(values, metric_run)
                values = {tag: _with_checked_tags(value, metric_run) for tag, value in values.items()}
                if owner:
                    _check_can_travel(values)
            if context.event == "step":
                step_values.add(values, owner)
            else:
                step_values.add_local(values)
            metric_run.cost.add(self._clock() - started, context.step)
        except OUTSIDE_ERRORS as error:
            if self._strict:
                raise RuntimeError(f"metric {name} failed at step {context.step}: {reason(error)}") from error
            lost_tags = ", ".join(metric_run.spec.metric.tags)
            logger.warning(
                "metric %s failed at step %d and is disabled; no longer written: %s; error: %s%s",
                name,
                context.step,
                lost_tags,
                reason(error),
                _place(error) if metric_run.is_outside else "",
            )
            if owner:
                self._failed.add(metric_run)
                step_values.flag_failure(owner, failed=True)
            else:
                self._remove(metric_run)

    def drop_logged_tags(self, logs: Iterable[str]) -> None:
        """Disables step metrics whose tags the trainer logs itself, with one warning each."""
        for metric_run in list(self.metric_runs):
            logged = [tag for tag in logs if tag in metric_run.tags] if metric_run.runs_on_steps else []
            if logged:
                logger.warning("the trainer logs %s itself; metric %s is disabled", logged[0], metric_run.spec.name)
                self._remove(metric_run)

    def _remove(self, metric_run: MetricRun) -> None:
        self.metric_runs.remove(metric_run)
        self.needs = needs_of(self.metric_runs)
        self.regroup()


def _place(error: BaseException) -> str:
    """The file and line where the error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(("<", _PACKAGE))]
    return f" ({outside[-1].filename}:{outside[-1].lineno})" if outside else ""


def _with_checked_tags(value: Any, metric_run: MetricRun) -> Any:
    """Makes a `Derived` raise if it computes a value under a tag that the metric does not declare."""
    if not isinstance(value, Derived):
        return value

    def function(numbers: Mapping[str, FinalValue]) -> Mapping[str, FinalValue | None]:
        changes = value.function(numbers)
        _check_tags(changes, metric_run)
        return changes

    return replace(value, function=function)


def _check_can_travel(values: Values) -> None:
    """Raises TypeError if a value cannot be described to other ranks."""
    for tag, value in values.items():
        if isinstance(value, Value):
            try:
                check_can_travel(value)
            except TypeError as error:
                raise TypeError(f"the value of {tag} cannot be merged over ranks: {error}") from error


def _check_tags(values: Iterable[str], metric_run: MetricRun) -> None:
    """Raises ValueError if a metric from outside the package writes a tag that it does not declare."""
    declared = metric_run.spec.metric.tags
    patterns = [re.sub("<[^>]*>", ".+", re.escape(tag)) for tag in declared if "<" in tag]
    for tag in values:
        if tag in declared or tag in metric_run.tags or tag.startswith(tags.HIDDEN):
            continue
        if not any(re.fullmatch(pattern, tag) for pattern in patterns):
            raise ValueError(f"every tag must be declared in tags, got {tag!r}; declared: {', '.join(declared)}")
        tags.check_tag(tag)


def needs_of(metric_runs: Sequence[MetricRun], optimizer: str | None = None) -> frozenset[str]:
    """The needs of these metric runs, optionally only of those that belong to one optimizer."""
    selected = (metric_run for metric_run in metric_runs if optimizer in (None, metric_run.optimizer))
    return frozenset(need for metric_run in selected for need in metric_run.spec.metric.needs)


class EndOfStepRuns:
    """Metrics that are deferred to the end of their step."""

    def __init__(self) -> None:
        self.pending: dict[MetricRun, Context] = {}
        self._counted: set[MetricRun] = set()  # those whose context has its counts

    def defer(self, metric_run: MetricRun, context: Context, counters: Counters) -> bool:
        """Defers the metric if it reads no parameters, or needs data from the end of the step.

        Its tensor statistics are computed immediately, and its counts too unless they change at the end of the step.
        Of several optimizer steps in one step, the last one counts.

        Returns:
            Whether the metric is deferred.
        """
        needs, select = metric_run.spec.metric.needs, metric_run.spec.select
        if select is not None and _END_OF_STEP_NEEDS.isdisjoint(needs):
            return False
        if select is not None:
            for tensors in (context.gradients, context.weights):
                tensors.compute(nonfinite="nonfinite" in needs)
        if _END_OF_STEP_NEEDS.isdisjoint(needs):
            context = with_interval(metric_run, context, counters)
            self._counted.add(metric_run)
        self.pending[metric_run] = replace(context, optimizer_state=None, replicas=None)  # they hold gradients
        return True

    def run_all(self, runner: MetricRunner, counters: Counters, publisher: Publisher) -> None:
        """Runs the deferred metrics."""
        deferred, self.pending, counted, self._counted = self.pending, {}, self._counted, set()
        for metric_run, context in deferred.items():
            complete = context if metric_run in counted else with_interval(metric_run, context, counters)
            runner.run(metric_run, complete, publisher.step_values(context.step))


def with_interval(metric_run: MetricRun, context: Context, counters: Counters) -> Context:
    """Returns the context with the counts since the metric's last point, and makes this one the last.

    A metric may run twice in a step whose optimizer steps twice: both count from the last point before that step.
    """
    if context.step != metric_run.last_step:
        metric_run.last_step, metric_run.totals_before = context.step, metric_run.last_totals
    interval, metric_run.last_totals = counters.since(metric_run.totals_before)
    needs = metric_run.spec.metric.needs
    if "predictions" in needs:
        counters.predictions.warn_if_empty()
    if "losses" in needs:
        interval = replace(
            interval, extra_losses={name: Mean(*sums) for name, sums in counters.extra_losses.pop().items()}
        )
    recording = counters.recording
    if "examples" in needs and recording is not None and recording.examples is not None:
        recording.examples.flush()
        recording.examples.warn_if_empty()
        context = replace(context, losses_by_group=recording.examples.pop_groups())
    if "bad_batches" in needs and recording is not None:
        context = replace(context, bad_steps=recording.bad_steps)
    if "wiring" in needs and counters.wiring is not None:
        context = replace(context, checks=counters.wiring.take())
    if "microbatches" in needs and counters.microbatches is not None:
        context = replace(context, microbatches=counters.microbatches.take())
    if "padding" in needs and counters.row_lengths is not None:
        context = replace(context, padding=counters.row_lengths.take())
    return replace(context, interval=interval)
