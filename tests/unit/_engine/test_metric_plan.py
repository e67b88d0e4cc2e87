"""Tests the plan of a training: metric runs with schedules, selections and tags."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.schedule import every
from tbx_callbacks._engine.metric_plan import MetricRun, axis_specs, describe, families, follow_other_metrics, plan
from tbx_callbacks._model.parameters import parameters_of

PARAMETERS = parameters_of(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}))
ONE = {"SGD": [0, 1, 2, 3]}


def planned(metrics: list[Any], owners: dict[str, list[int]] | None = None) -> list[MetricRun]:
    return plan(load_config({"metrics": metrics}).items, 5, PARAMETERS, every(10), owners or ONE)


def test_plan_cadence_of_metric_set_or_log() -> None:
    runs = planned([{"weight_norm": {"every": 3}}, {"grad_norm": {"every": "log"}}, "throughput"])
    assert [run.schedule for run in runs] == [every(3), every(10), every(5)]
    assert [run.runs_on_steps for run in (*runs, *planned(["loss"]))] == [True, True, True, False]


def test_plan_tags_name_groups_and_parameters() -> None:
    (norms, histograms) = planned(["weight_norm", "weight_histogram"])
    assert norms.tags == {"weight_norm/a": (0, 1), "weight_norm/b": (2, 3)}
    assert (norms.has_histograms, histograms.has_histograms) == (False, True)
    assert families([norms, histograms]) == ("weight_norm",)


def test_plan_several_optimizers_own_prefixed_runs() -> None:
    runs = planned(["grad_norm", "memory"], {"first": [0, 1], "second": [2, 3]})
    assert [(run.optimizer, list(run.tags)) for run in runs[:2]] == [
        ("first", ["grad_norm/first/a"]),
        ("second", ["grad_norm/second/b"]),
    ]
    assert [run.optimizer for run in runs[2:]] == [""]


def test_plan_same_tag_of_two_metrics_refused() -> None:
    with pytest.raises(ConfigError, match="both write weight_norm/a"):
        planned([{"weight_norm": {"include": "weight"}}, {"weight_norm": {"include": "bias"}}])


def test_plan_regex_without_match_refused() -> None:
    with pytest.raises(ConfigError, match=r"grad_norm\.include must match"):
        planned([{"grad_norm": {"include": "c"}}])


def test_describe_names_selection() -> None:
    first, second = load_config({"metrics": [{"grad_norm": {"by": "total", "exclude": "bias"}}, "loss"]}).items
    assert describe(first) == "by: total, exclude: bias"
    assert describe(second) == "no selection"


def test_axis_metric_follows_other_metrics() -> None:
    assert axis_specs(["step", "epochs"]) == []
    (spec,) = axis_specs(["step", "samples", "tokens"])
    runs = [*planned([{"weight_norm": {"every": 3}}]), *plan([spec], 5, PARAMETERS, every(10), ONE)]
    follow_other_metrics(runs, every(10))
    assert [step for step in range(1, 13) if runs[1].schedule(step)] == [3, 6, 9, 10, 12]
