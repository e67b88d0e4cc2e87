"""Resolves the items of a metric set for one model: schedules, selected parameters, and tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tbx_callbacks._config.cadence import Cadence
from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._config.schedule import Schedule, either, every, guarded
from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._engine.cost import Cost
from tbx_callbacks._model.parameters import NO_SELECTION, NoMatchError, Parameter, Selection, match
from tbx_callbacks.metrics.axis_progress import AxisProgress
from tbx_callbacks.metrics.context import Interval
from tbx_callbacks.tags import REPLICAS


@dataclass(eq=False)
class MetricRun:
    """One metric of a set on a given model. `last_totals` holds the counts at the metric's last point."""

    spec: MetricSpec
    schedule: Schedule
    selection: Selection
    tags: dict[str, tuple[int, ...]]
    """The tags that are known in advance, each with the indices of its parameters."""
    optimizer: str = ""
    """Name of the optimizer in whose step the metric is computed; empty for a metric that reads no parameters."""
    follows_logs: bool = False
    """Whether it runs whenever the trainer logs."""
    last_totals: Interval = field(default_factory=Interval)
    last_step: int = -1
    """The step of the metric's last point."""
    totals_before: Interval = field(default_factory=Interval)
    """The counts at the point before the last one."""
    cost: Cost = field(default_factory=Cost)
    state: dict[str, Any] = field(default_factory=dict)
    """What the metric keeps between its points."""

    @property
    def has_histograms(self) -> bool:
        """Whether the metric writes histograms."""
        return "histogram" in self.spec.metric.tags.values()

    @cached_property
    def is_outside(self) -> bool:
        """Whether the metric's class is not part of this package."""
        return type(self.spec.metric).__module__.partition(".")[0] != "tbx_callbacks"

    @property
    def runs_on_steps(self) -> bool:
        """Whether the metric is computed on steps, and not only when the trainer logs."""
        return "step" in self.spec.metric.events


def schedule_of(cadence: Cadence, log_schedule: Schedule) -> Schedule:
    """The schedule of a cadence: every `cadence` steps, the trainer's logging steps, or the cadence itself."""
    if isinstance(cadence, int):
        return every(cadence)
    if isinstance(cadence, str):
        return log_schedule
    return guarded(cadence)


def plan(
    items: Sequence[MetricSpec],
    default: Cadence,
    parameters: Sequence[Parameter],
    log_schedule: Schedule,
    parameters_by_optimizer: Mapping[str, Sequence[int]],
    reducer: Reducer | None = None,
    *,
    without_prefix: str | None = None,
) -> list[MetricRun]:
    """Resolves every item to its metric runs.

    Args:
        items: the metrics.
        default: cadence of items without one.
        parameters: all parameters of the model.
        log_schedule: the steps at which the trainer logs.
        parameters_by_optimizer: indices of each optimizer's parameters, by its name. Each optimizer has its own metric
            runs, and group names start with the optimizer's name.
        reducer: reduces over ranks; None with one rank. Other ranks may hold other parameters, as pipeline stages do.
            An item that selects parameters on any rank has a metric run on all of them, perhaps an empty one.
        without_prefix: name of the optimizer whose groups have no prefix: the only one when the training started.
            Default: the only optimizer.

    Raises:
        ConfigError: a regex matches no parameter on any rank, or two items would write the same tag.
    """
    metric_runs: list[MetricRun] = []
    if without_prefix is None and len(parameters_by_optimizer) == 1:
        without_prefix = next(iter(parameters_by_optimizer))
    by_item = _selections(items, parameters, parameters_by_optimizer, reducer, without_prefix)
    for item, selections in zip(items, by_item, strict=True):
        schedule = schedule_of(item.every or default, log_schedule)
        for optimizer, selection in selections:
            metric_run = MetricRun(item, schedule, selection, _tags(item, selection), optimizer)
            metric_run.follows_logs = (item.every or default) == "log"
            for other in metric_runs:
                if other.spec is not item:
                    _check_distinct_tags(metric_run, other)
            metric_runs.append(metric_run)
    return metric_runs


def _selections(
    items: Sequence[MetricSpec],
    parameters: Sequence[Parameter],
    parameters_by_optimizer: Mapping[str, Sequence[int]],
    reducer: Reducer | None,
    without_prefix: str | None,
) -> list[list[tuple[str, Selection]]]:
    """The selection of each item for each optimizer, where it selects a parameter on any rank."""
    selected = [_select_by_optimizer(item, parameters, parameters_by_optimizer, without_prefix) for item in items]
    local_names: set[str] = set()
    for index, by_optimizer in enumerate(selected):
        for optimizer, (selection, regexes) in by_optimizer.items():
            local_names |= {f"{index} {option}" for option, error in regexes.items() if error is None}
            local_names |= {f"{index} @{optimizer}"} if selection.groups else set()
    all_names = local_names if reducer is None else reducer.union(local_names)
    for index, (item, by_optimizer) in enumerate(zip(items, selected, strict=True)):
        for _, regexes in by_optimizer.values():
            for option, error in regexes.items():
                if error is not None and f"{index} {option}" not in all_names:
                    raise ConfigError(f"{item.name}.{error}") from error
    return [
        [
            (optimizer, selection)
            for optimizer, (selection, _) in by_optimizer.items()
            if item.select is None or f"{index} @{optimizer}" in all_names
        ]
        for index, (item, by_optimizer) in enumerate(zip(items, selected, strict=True))
    ]


def _select_by_optimizer(
    item: MetricSpec,
    parameters: Sequence[Parameter],
    parameters_by_optimizer: Mapping[str, Sequence[int]],
    without_prefix: str | None,
) -> dict[str, tuple[Selection, dict[str, NoMatchError | None]]]:
    """The item's selection on this rank, by optimizer. An item without parameters belongs to none of them."""
    if item.select is None:
        return {"": (NO_SELECTION, {})}
    return {
        name: match(item.select, parameters, indices, "" if name == without_prefix else f"{name}/")
        for name, indices in parameters_by_optimizer.items()
    }


def families(metric_runs: Sequence[MetricRun]) -> tuple[str, ...]:
    """The tag prefixes of scalars that are written for several groups, without duplicates."""
    names: dict[str, None] = {}
    for metric_run in metric_runs:
        if any(group.name != "total" for group in metric_run.selection.groups):
            tags = metric_run.spec.metric.tags.items()
            names.update(
                {
                    t.removesuffix("/{group}"): None
                    for t, unit in tags
                    if "{group}" in t and unit != "histogram" and not t.startswith(f"{REPLICAS}/")  # zeros, or absent
                }
            )
    return tuple(names)


def _tags(item: MetricSpec, selection: Selection) -> dict[str, tuple[int, ...]]:
    tags: dict[str, tuple[int, ...]] = {}
    for tag in item.metric.tags:
        if "{group}" in tag:
            tags.update({tag.replace("{group}", group.name): group.members for group in selection.groups})
        elif "<" not in tag:
            tags[tag] = ()
    return tags


def _check_distinct_tags(metric_run: MetricRun, other: MetricRun) -> None:
    """Raises unless tags written by both runs have the same meaning, such as a module that is also a layer."""
    same_metric = metric_run.spec.metric == other.spec.metric and metric_run.spec.select is not None
    shared = [
        tag
        for tag, members in metric_run.tags.items()
        if tag in other.tags and not (same_metric and members and members == other.tags[tag])
    ]
    if shared:
        suffix = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
        raise ConfigError(
            f"every tag must be written by one metric, but {other.spec.name} ({describe(other.spec)}) and"
            f" {metric_run.spec.name} ({describe(metric_run.spec)}) both write {shared[0]}{suffix};"
            " let their selections differ, or name groups with by: {name: regex}"
        )


def describe(item: MetricSpec) -> str:
    """The item's selection, in the notation of a metric set."""
    if item.select is None:
        return "no selection"
    parts = {"by": item.select.by, "include": item.select.include, "exclude": item.select.exclude}
    return ", ".join(f"{key}: {value}" for key, value in parts.items() if value is not None)


def axis_specs(axes: Sequence[str]) -> list[MetricSpec]:
    """The metrics that count progress for these axes; epochs come from the trainer."""
    counted_axes = tuple(axis for axis in axes if axis in ("samples", "tokens"))
    return [MetricSpec("axis", AxisProgress(counted_axes))] if counted_axes else []


def follow_other_metrics(metric_runs: Sequence[MetricRun], log_schedule: Schedule) -> None:
    """Schedules axis progress whenever another metric is due or the trainer logs."""
    followers = [metric_run for metric_run in metric_runs if isinstance(metric_run.spec.metric, AxisProgress)]
    others = [metric_run for metric_run in metric_runs if metric_run.runs_on_steps and metric_run not in followers]
    for follower in followers:
        follower.follows_logs = True
        follower.schedule = either(*dict.fromkeys((log_schedule, *(other.schedule for other in others))))
