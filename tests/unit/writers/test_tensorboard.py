"""Tests the TensorBoard writer: events, histograms and tags."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.runs import Run, files


def test_tensorboard_writer_one_event_per_step(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    counts = HistogramCounts((1, 0, 3), 0.0, 3.0, 7.0, 20.0)
    writer.write(5, {"a": 1.0, "b": 2.0, "h": counts})
    writer.close()
    (path,) = files(tmp_path)
    events = list(LegacyEventFileLoader(str(path)).Load())
    assert [event.step for event in events] == [0, 5]
    assert events[0].file_version == "brain.Event:2"
    assert {value.tag for value in events[1].summary.value} == {"a", "b", "h"}


def test_tensorboard_writer_histogram_exact(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"h": HistogramCounts((2, 0, 3, 1), -1.0, 3.0, 4.5, 11.0)})
    writer.close()
    proto = Run(tmp_path).histograms["h"][1]
    assert (proto.min, proto.max, proto.num, proto.sum, proto.sum_squares) == (-1.0, 3.0, 6.0, 4.5, 11.0)
    assert list(proto.bucket) == [0, 2, 0, 3, 1]
    assert list(proto.bucket_limit) == [-1.0, 0.0, 1.0, 2.0, 3.0]


def test_tensorboard_writer_tags_unchanged(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"eval/F1 (macro) %": 1.0, "größe": 2.0})
    writer.close()
    assert set(Run(tmp_path).scalars) == {"eval/F1 (macro) %", "größe"}
