"""Tests metrics that a training does not support."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._engine.supported_metrics import _drop_cross_rank
from tbx_callbacks.metrics import Context, Metric, Sum, Values
from tbx_callbacks.metrics.registry import METRICS
from tests.helpers.engine_runs import train_engine as loop


def test_unsupported_sharding_leaves_out_parameter_metrics(caplog: pytest.LogCaptureFixture) -> None:
    writer, _ = loop(["weight_norm", "throughput"], unsupported_sharding="DTensor (FSDP2 or tensor parallel)")
    assert {tag.split("/")[0] for _, values in writer.batches for tag in values} == {"perf"}
    assert "parameter sharding is not supported: DTensor" in caplog.text
    assert "weight_norm" in caplog.text


def test_unsupported_sharding_keeps_activations() -> None:
    writer, _ = loop(["weight_norm", "activations"], unsupported_sharding="DTensor (FSDP2 or tensor parallel)")
    assert {tag.split("/")[0] for _, values in writer.batches for tag in values} == {"activations"}


@dataclass(frozen=True)
class Batches(Metric):
    tags = {"batches": ""}  # noqa: RUF012
    needs = frozenset({"batches"})

    def __call__(self, context: Context) -> Values:
        return {"batches": Sum(1.0)}


def test_lone_rank_drops_outside_metrics_of_its_data() -> None:
    items = [MetricSpec("my_pkg.Batches", Batches()), *(MetricSpec(name, cls()) for name, cls in METRICS.items())]
    kept = {item.name for item in _drop_cross_rank(items, has_shards=False)}
    dropped = {"activations", "input_share", "memory", "nonfinite", "outputs", "throughput", "train_accuracy"}
    dropped |= {"time", "padding", "gradient_noise", "examples", "bad_batches"}
    assert kept == set(METRICS) - dropped
