"""From the items of a set to what runs on this model: schedules, selections, and the tags that will be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.metric_spec import Cadence, MetricSpec
from tbx_callbacks._config.schedule import Schedule, either, every
from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._engine.cost import Cost
from tbx_callbacks._engine.counters import Totals
from tbx_callbacks._model.parameters import NoMatchError, Parameter, Selection, match
from tbx_callbacks.metrics.progress import AxisProgress


@dataclass(eq=False)
class MetricRun:
    """An item on a given model. `last` is what had been counted at the metric's last point."""

    spec: MetricSpec
    schedule: Schedule
    selection: Selection
    tags: dict[str, tuple[int, ...]]
    """Tags as far as they are known beforehand, and which parameters each is made of."""
    optimizer: str = ""
    """The optimizer in whose step the metric is measured."""
    last_totals: Totals = field(default_factory=Totals)
    cost: Cost = field(default_factory=Cost)

    @property
    def has_histograms(self) -> bool:
        """Whether it writes histograms."""
        return "histogram" in self.spec.metric.tags.values()

    @property
    def runs_on_steps(self) -> bool:
        """Whether the metric is measured on steps (and not only when the trainer logs)."""
        return "step" in self.spec.metric.events


def schedule_of(cadence: Cadence, log_schedule: Schedule) -> Schedule:
    """The schedule of a cadence: every so many steps, or the trainer's own logging."""
    return every(cadence) if isinstance(cadence, int) else log_schedule


def plan(
    items: Sequence[MetricSpec],
    default: Cadence,
    parameters: Sequence[Parameter],
    log_schedule: Schedule,
    parameters_by_optimizer: Mapping[str, Sequence[int]],
    reducer: Reducer | None = None,
) -> list[MetricRun]:
    """Resolves every item.

    Args:
        items: the metrics.
        default: cadence of items without one.
        parameters: all parameters of the model.
        log_schedule: the steps at which the trainer logs.
        owners: places of the parameters of each optimizer, by its name. With several, each has entries of its own, and
            its name stands in front of the groups' names.
        ranks: all ranks, where there are several. They may hold other parameters, as stages of a pipeline do: where an
            item selects some on any rank, it has an entry on all of them, perhaps an empty one.

    Raises:
        ConfigError: a regex matches no parameter, on any rank, or two items would write the same tag.
    """
    metric_runs: list[MetricRun] = []
    for item, selections in zip(items, _selections(items, parameters, parameters_by_optimizer, reducer), strict=True):
        schedule = schedule_of(item.every or default, log_schedule)
        for optimizer, selection in selections:
            metric_run = MetricRun(item, schedule, selection, _tags(item, selection), optimizer)
            for other in metric_runs:
                if other.spec is not item:
                    _check_apart(metric_run, other)
            metric_runs.append(metric_run)
    return metric_runs


def _selections(
    items: Sequence[MetricSpec],
    parameters: Sequence[Parameter],
    parameters_by_optimizer: Mapping[str, Sequence[int]],
    reducer: Reducer | None,
) -> list[list[tuple[str, Selection]]]:
    """What each item selects of each optimizer's parameters, where it selects some of them on any rank."""
    found = [_selected(item, parameters, parameters_by_optimizer) for item in items]
    here: set[str] = set()
    for index, of_item in enumerate(found):
        for optimizer, (selection, regexes) in of_item.items():
            here |= {f"{index} {what}" for what, error in regexes.items() if error is None}
            here |= {f"{index} @{optimizer}"} if selection.groups else set()
    anywhere = here if reducer is None else reducer.union(here)
    for index, (item, of_item) in enumerate(zip(items, found, strict=True)):
        for _, regexes in of_item.values():
            for what, error in regexes.items():
                if error is not None and f"{index} {what}" not in anywhere:
                    raise ConfigError(f"{item.name}.{error}") from error
    return [
        [
            (optimizer, selection)
            for optimizer, (selection, _) in of_item.items()
            if item.select is None or f"{index} @{optimizer}" in anywhere
        ]
        for index, (item, of_item) in enumerate(zip(items, found, strict=True))
    ]


def _selected(
    item: MetricSpec, parameters: Sequence[Parameter], parameters_by_optimizer: Mapping[str, Sequence[int]]
) -> dict[str, tuple[Selection, dict[str, NoMatchError | None]]]:
    """What the item selects on this rank, by optimizer; an item that reads no parameter goes with the first."""
    if item.select is None:
        return {next(iter(parameters_by_optimizer), ""): (Selection(()), {})}
    return {
        name: match(item.select, parameters, indices, f"{name}/" if len(parameters_by_optimizer) > 1 else "")
        for name, indices in parameters_by_optimizer.items()
    }


def families(metric_runs: Sequence[MetricRun]) -> tuple[str, ...]:
    """What comes before the group's name in tags of scalars that are written for several groups; each once."""
    found: dict[str, None] = {}
    for metric_run in metric_runs:
        if any(group.name != "total" for group in metric_run.selection.groups):
            tags = metric_run.spec.metric.tags.items()
            found.update(
                {t.removesuffix("/{group}"): None for t, unit in tags if "{group}" in t and unit != "histogram"}
            )
    return tuple(found)


def _tags(item: MetricSpec, selection: Selection) -> dict[str, tuple[int, ...]]:
    tags: dict[str, tuple[int, ...]] = {}
    for tag in item.metric.tags:
        if "{group}" in tag:
            tags.update({tag.replace("{group}", group.name): group.members for group in selection.groups})
        elif "<" not in tag:
            tags[tag] = ()
    return tags


def _check_apart(metric_run: MetricRun, other: MetricRun) -> None:
    """A tag may come from two items only when it means the same: a module that is also a layer, for example."""
    alike = metric_run.spec.metric == other.spec.metric and metric_run.spec.select is not None
    same = [
        tag
        for tag, members in metric_run.tags.items()
        if tag in other.tags and not (alike and members and members == other.tags[tag])
    ]
    if same:
        more = f" and {len(same) - 1} more" if len(same) > 1 else ""
        raise ConfigError(
            f"every tag must be written by one metric, but {other.spec.name} ({describe(other.spec)}) and"
            f" {metric_run.spec.name} ({describe(metric_run.spec)}) both write {same[0]}{more};"
            " let their selections differ, or name groups with by: {name: regex}"
        )


def describe(item: MetricSpec) -> str:
    """What an item selects, as a set says it."""
    if item.select is None:
        return "no selection"
    parts = {"by": item.select.by, "include": item.select.include, "exclude": item.select.exclude}
    return ", ".join(f"{key}: {value}" for key, value in parts.items() if value is not None)


def axis_specs(axes: Sequence[str]) -> list[MetricSpec]:
    """What has to be counted for these axes; epochs come from the trainer."""
    counted = tuple(axis for axis in axes if axis in ("samples", "tokens"))
    return [MetricSpec("axis", AxisProgress(counted))] if counted else []


def follow_other_metrics(metric_runs: Sequence[MetricRun], log_schedule: Schedule) -> None:
    """Counts whenever anything else is measured, or the trainer logs."""
    others = [
        metric_run.schedule
        for metric_run in metric_runs
        if not isinstance(metric_run.spec.metric, AxisProgress) and metric_run.runs_on_steps
    ]
    for metric_run in metric_runs:
        if isinstance(metric_run.spec.metric, AxisProgress):
            metric_run.schedule = either(*dict.fromkeys((log_schedule, *others)))
