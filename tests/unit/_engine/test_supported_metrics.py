"""Tests metrics that a training does not support."""

from __future__ import annotations

import pytest

from tests.helpers.engine_runs import train_engine as loop


def test_unsupported_sharding_leaves_out_parameter_metrics(caplog: pytest.LogCaptureFixture) -> None:
    writer, _ = loop(["weight_norm", "throughput"], unsupported_sharding="DTensor (FSDP2 or tensor parallel)")
    assert {tag.split("/")[0] for _, values in writer.batches for tag in values} == {"perf"}
    assert "parameter sharding is not supported: DTensor" in caplog.text
    assert "weight_norm" in caplog.text
