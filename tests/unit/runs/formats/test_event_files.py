"""Tests the reader on event files of every kind of writer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.metadata import create_summary_metadata as histogram_metadata
from tensorboard.plugins.hparams import metadata as hparams_plugin
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo
from tensorboard.plugins.scalar.metadata import create_summary_metadata as scalar_metadata
from tensorboard.util.tensor_util import make_tensor_proto
from tensorboardX.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from tbx_callbacks import runs
from tbx_callbacks.metrics.host_values import HParams, HParamsEnd
from tbx_callbacks.runs.reader import UnreadableError, find_runs, read_run
from tbx_callbacks.runs.series import Series
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.runs import files


def points(series: Series) -> list[tuple[int, float]]:
    return list(zip(series.steps.tolist(), series.values.tolist(), strict=True))


def scalars(folder: Path, numbers: dict[int, float], tag: str = "train/loss") -> None:
    writer = TensorBoardWriter(folder)
    for step, number in numbers.items():
        writer.write(step, {tag: number})
    writer.close()


def write(path: Path, *events: Event) -> None:
    writer = RecordWriter(str(path))
    for event in events:
        writer.write(event.SerializeToString())
    writer.close()


@pytest.mark.parametrize("new_style", [False, True])
def test_reader_torch_summary_writer_read(tmp_path: Path, new_style: bool) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            writer.add_scalar("loss", 1 / (step + 1), step, new_style=new_style)
            writer.add_histogram("w", torch.arange(100.0) + step, step)
            writer.add_text("note", f"step {step}", step)
    run = read_run(tmp_path)
    assert points(run.scalars["loss"]) == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert [buckets[:, 2].sum() for buckets in run.histograms["w"].buckets] == [100, 100, 100]
    assert run.histograms["w"].buckets[1][0, 0] == 1.0
    assert run.texts["note"].values == ("step 0", "step 1", "step 2")


def test_reader_tf2_tensors_plugin_named_once(tmp_path: Path) -> None:
    def event(step: int, tag: str, data: object, metadata: object = None) -> Event:
        value = Summary.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto(data))
        return Event(step=step, wall_time=step, summary=Summary(value=[value]))

    buckets = np.array([[0.0, 1.0, 3.0], [1.0, 2.0, 4.0]])
    write(
        tmp_path / "events.out.tfevents.1.v2",
        event(1, "epoch_loss", 0.5, scalar_metadata("", "")),
        event(2, "epoch_loss", np.float64(0.25)),
        event(2, "kernel", buckets, histogram_metadata("", "")),
        event(2, "something_else", np.zeros(3)),
    )
    run = read_run(tmp_path)
    assert points(run.scalars["epoch_loss"]) == [(1, 0.5), (2, 0.25)]
    assert (run.histograms["kernel"].buckets[0] == buckets).all()
    assert set(run.scalars) == {"epoch_loss"}


@pytest.mark.parametrize("carrier", [{}, {"tensor": hparams_plugin.NULL_TENSOR}, {"simple_value": 0.0}], ids=str)
def test_reader_hyper_parameters_beside_any_value(tmp_path: Path, carrier: dict[str, Any]) -> None:
    start = SessionStartInfo()
    start.hparams["lr"].number_value = 0.1
    metadata = hparams_plugin.create_summary_metadata(HParamsPluginData(session_start_info=start))
    value = Summary.Value(tag="_hparams_/session_start_info", metadata=metadata, **carrier)
    later = Summary.Value(tag="_hparams_/session_start_info", simple_value=2.0)  # without hyper-parameters
    write(tmp_path / "events.out.tfevents.1", Event(summary=Summary(value=[value, later])))
    run = read_run(tmp_path)
    assert (dict(run.hparams), run.left_out) == ({"lr": 0.1}, ())


def test_reader_status_of_end_until_resumed(tmp_path: Path) -> None:
    def write_end(*, succeeded: bool) -> None:
        writer.write(1, {"_hparams_/session_end_info": HParamsEnd(succeeded=succeeded)})
        writer.flush()

    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"train/loss": 1.0})
    writer.flush()
    statuses = [read_run(tmp_path).status]
    for succeeded in (False, True):
        write_end(succeeded=succeeded)
        statuses.append(read_run(tmp_path).status)
    writer.purge(2)
    writer.flush()
    statuses.append(read_run(tmp_path).status)
    write_end(succeeded=False)
    writer.write(0, {"_hparams_/session_start_info": HParams({"lr": 0.1})})
    writer.close()
    assert [*statuses, read_run(tmp_path).status] == ["", "failed", "succeeded", "", ""]


def test_reader_tensors_without_plugin_named(tmp_path: Path) -> None:
    events = []
    for step in range(4):
        known = scalar_metadata("b", "") if step == 0 else None
        values = [("a", scalar_metadata("a", "") if step else None), ("b", known), ("c", None)]
        events.append(
            Event(
                step=step,
                summary=Summary(
                    value=[Summary.Value(tag=tag, metadata=kind, tensor=make_tensor_proto(1.5)) for tag, kind in values]
                ),
            )
        )
    write(tmp_path / "events.out.tfevents.1", *events)
    run = read_run(tmp_path)
    assert {tag: points(series) for tag, series in run.scalars.items()} == {"b": [(step, 1.5) for step in range(4)]}
    assert run.left_out == (
        "the value of 'a' at step 0 and 7 more are left out: the first value of its tag names no plugin, which gives a"
        " tensor its meaning",
    )


def test_reader_purged_steps_hidden(tmp_path: Path) -> None:
    with tensorboardX.SummaryWriter(str(tmp_path), filename_suffix=".a") as writer:
        for step in range(1, 9):
            writer.add_scalar("loss", step, step)
        writer.add_scalar("only_before", 1.0, 8)
    with tensorboardX.SummaryWriter(str(tmp_path), filename_suffix=".b", purge_step=6) as writer:
        for step in range(6, 8):
            writer.add_scalar("loss", 10 * step, step)
    run = read_run(tmp_path)
    assert len(files(tmp_path)) == 2
    assert points(run.scalars["loss"]) == [*((n, n) for n in range(1, 6)), (6, 60.0), (7, 70.0)]
    assert "only_before" not in run.scalars


def test_reader_repeated_step_restarts_tag(tmp_path: Path) -> None:
    scalars(tmp_path, {1: 1.0, 2: 2.0, 3: 3.0})
    scalars(tmp_path, {2: 20.0})
    assert points(read_run(tmp_path).scalars["train/loss"]) == [(1, 1.0), (2, 20.0)]


def test_reader_cut_record_ends_its_file(tmp_path: Path) -> None:
    scalars(tmp_path, {1: 1.0, 2: 2.0})
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    scalars(tmp_path, {3: 3.0})
    run = read_run(tmp_path)
    assert points(run.scalars["train/loss"]) == [(1, 1.0), (3, 3.0)]
    (cut,) = run.unread
    assert cut == path.name
    assert run.unread[cut] > 5


def test_reader_progress_counts_every_byte(tmp_path: Path) -> None:
    writer = RecordWriter(str(tmp_path / "events.out.tfevents.1.x"))
    value = Summary.Value(tag="loss", simple_value=1.0)
    for step in range(12_000):
        writer.write(Event(step=step, wall_time=1.0, summary=Summary(value=[value])).SerializeToString())
    writer.close()
    printed: list[tuple[int, int]] = []
    run = read_run(tmp_path, progress=lambda done, total: printed.append((done, total)))
    size = (tmp_path / "events.out.tfevents.1.x").stat().st_size
    assert len(run.scalars["loss"]) == 12_000
    assert printed[-1] == (size, size)
    assert len(printed) == 1 + size // (1 << 18)
    assert {total for _, total in printed} == {size}


def test_find_runs_below_folder(tmp_path: Path) -> None:
    for name in ("b", "a/fold_1"):
        scalars(tmp_path / name, {1: 1.0})
    (tmp_path / "empty").mkdir()
    assert find_runs(tmp_path) == {"a/fold_1": str(tmp_path / "a/fold_1"), "b": str(tmp_path / "b")}


def test_reader_unreadable_folder_error_says_why(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"must hold logs of a run \(event files .* none in .* give the folder"):
        find_runs(tmp_path)
    with pytest.raises(UnreadableError, match=r"must be a folder with runs, got .*: it does not exist"):
        find_runs(tmp_path / "nothing")
    with pytest.raises(UnreadableError, match="holds none"):
        read_run(tmp_path)
    broken = tmp_path / "events.out.tfevents.1.x"
    broken.write_bytes(b"no event at all, but long enough for a header")
    with pytest.raises(UnreadableError, match="it is one event file of a run; give its folder"):
        find_runs(broken)
    with pytest.raises(UnreadableError, match="it is one event file of a run; give its folder"):
        read_run(broken)
    with pytest.raises(UnreadableError, match=r"must hold TensorBoard events, but those in .* hold none"):
        read_run(tmp_path)
    broken.unlink()
    broken.mkdir()
    with pytest.raises(UnreadableError, match=r"hold none: events.out.tfevents.1.x: it is a folder"):
        read_run(tmp_path)


def test_reader_without_tensorboard_error_says_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars(tmp_path, {1: 1.0})
    monkeypatch.delitem(sys.modules, "tbx_callbacks.runs.tensorboard_loader", raising=False)
    monkeypatch.delattr(runs, "tensorboard_loader", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"run: pip install tbx-callbacks\[view\]"):
        read_run(tmp_path)
