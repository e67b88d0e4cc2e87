"""Helps to test your trainings, and your own metrics, rules and writers.

```python
from tbx_callbacks.metrics import Select
from tbx_callbacks.testing import example_values, findings_of, measure


def test_small_share() -> None:
    model = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(model.weight)
    assert measure(SmallShare(), model, select=Select(by="total")) == {"small_share/total": 6 / 8}
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._config.schedule import every
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.parameters import Select
from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.base import Metric
from tbx_callbacks.metrics.host_values import FinalValue, HParams, HParamsEnd, HParamsMetrics, Layout, Text
from tbx_callbacks.metrics.registry import check_metric
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.diagnose import diagnose
from tbx_callbacks.runs.series import Run, Series
from tbx_callbacks.training_check import TrainingCheck, assert_healthy
from tbx_callbacks.writers.base import MemoryWriter

__all__ = ["TrainingCheck", "assert_healthy", "example_values", "findings_of", "measure", "run_of"]


def measure(
    metric: Metric | str | Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    select: Select | None = None,
    loss: Tensor | None = None,
    samples: int = 0,
    tokens: Tensor | None = None,
) -> dict[str, FinalValue]:
    """Runs one optimizer step on the gradients that the model has, and returns what a metric writes for it.

    Errors of the metric are raised.

    Args:
        metric: the metric; or its entry in a metric set, such as `"grad_norm"` or `{"grad_norm": {"by": "total"}}`.
        model: the model, after `loss.backward()` if the metric reads gradients.
        optimizer: steps once. Default: SGD with a learning rate of 0, which changes no weight.
        select: the parameters and their groups, in place of the metric's own choice. Only for a metric object.
        loss: the loss of the step's batch, 0-d.
        samples: the number of samples in the batch.
        tokens: the number of tokens in the batch, or their mask.

    Raises:
        ConfigError: the entry is invalid.
        ValueError: the object is not a metric, or it does not run in the optimizer's step.
        RuntimeError: the metric failed.
    """
    items = [replace(item, every=1) for item in _items(metric, select)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0) if optimizer is None else optimizer
    writer = MemoryWriter()
    engine = Engine(items, every=1, strict=True, writer=writer)
    engine.start(TrainingInfo(model, {type(optimizer).__name__: optimizer}, log_schedule=every(1)))
    try:
        engine.begin_step(1)
        if loss is not None or samples or tokens is not None:
            engine.record_batch(loss=loss, samples=samples, tokens=tokens)
        engine.before_clip()
        optimizer.step()
        engine.flush_step()
    finally:
        engine.end(1, succeeded=True)
    return {tag: value for step, values in writer.batches if step == 1 for tag, value in values.items()}


def _items(metric: Metric | str | Mapping[str, Any], select: Select | None) -> Sequence[MetricSpec]:
    if isinstance(metric, (str, Mapping)):
        if select is not None:
            raise ValueError("select must be left out for an entry of a metric set; write by, include, exclude there")
        items: Sequence[MetricSpec] = load_config({"metrics": [metric]}).items
    else:
        if isinstance(metric, type):
            raise TypeError(f"metric must be an object, got the class {metric.__name__}; write {metric.__name__}()")
        if not isinstance(select, Select | None):
            raise TypeError(f"select must be a Select, got {select!r}; write Select(by=...)")
        check_metric(type(metric))
        items = [MetricSpec(type(metric).__name__, metric, 1, select or metric.select)]
    for item in items:
        if "step" not in item.metric.events or "activations" in item.metric.needs:
            raise ValueError(f"metric must run in the optimizer's step, got {item.name}; test it in a training")
    return items


def run_of(scalars: Mapping[str, Sequence[float] | Mapping[int, float]]) -> Run:
    """Builds a run for tests of rules.

    Args:
        scalars: the values of each tag, by step, or for the steps 1, 2, 3, ...
    """
    series = {}
    for tag, values in scalars.items():
        by_step = values if isinstance(values, Mapping) else dict(enumerate(values, 1))
        steps = np.array(sorted(by_step), np.int64)
        numbers = np.array([by_step[int(step)] for step in steps], np.float64)
        series[tag] = Series(steps, numbers, steps.astype(np.float64))
    return Run(series)


def findings_of(rule: Rule, scalars: Mapping[str, Sequence[float] | Mapping[int, float]]) -> list[Finding]:
    """Returns the findings of one rule on a run; see `run_of`. Empty also if the run lacks the series that it needs."""
    if not hasattr(rule, "id"):  # a set gives the rule its name
        object.__setattr__(rule, "id", type(rule).__name__)
    return list(diagnose(run_of(scalars), {rule.id: rule}).findings)


def example_values() -> dict[str, FinalValue]:
    """Returns one value of each type that a writer may receive, by tag."""
    return {
        "example/number": 0.5,
        "example/nan": float("nan"),
        "example/histogram": HistogramCounts((2, 0, 1), low=-1.0, high=2.0, total=0.0, total_squares=6.0),
        "example/text": Text("**bold**"),
        "_hparams_/session_start_info": HParams({"learning_rate": 1e-3, "optimizer": "AdamW", "amsgrad": False}),
        "_hparams_/experiment": HParamsMetrics({"learning_rate": 1e-3}, ["eval/loss"]),
        "_hparams_/session_end_info": HParamsEnd(succeeded=True),
        "custom_scalars__config__": Layout({"loss": {"train and eval": ["^train/loss$", "^eval/loss$"]}}),
    }
