"""Tests every `add_*` method of tensorboardX's SummaryWriter through the event writer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.runs import Run, files

# tensorboardX and its drawing libraries use deprecated functions of their dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")

Writer = Any


def figure(writer: Writer) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    drawn = pyplot.figure()
    drawn.add_subplot().plot([1, 2, 3])
    writer.add_figure("figure", drawn, 1)


def audio(writer: Writer) -> None:
    pytest.importorskip("soundfile")
    writer.add_audio("audio", torch.zeros(1, 100), 1, sample_rate=8000)


def video(writer: Writer) -> None:
    pytest.importorskip("moviepy")
    writer.add_video("video", torch.zeros(1, 4, 3, 8, 8, dtype=torch.uint8), 1)


def embedding(writer: Writer) -> None:
    writer.add_embedding(torch.randn(4, 3), metadata=["a", "b", "c", "d"], global_step=1, tag="embedding")


LAYOUT = {"losses": {"both": ["Multiline", ["a", "b"]]}}
CURVE = {"true_positive_counts": [3, 2], "false_positive_counts": [2, 1], "true_negative_counts": [0, 1]}
CURVE |= {"false_negative_counts": [0, 1], "precision": [0.6, 0.66], "recall": [1.0, 0.66]}
COUNTS: dict[str, Any] = {"min": 0.0, "max": 3.0, "num": 6, "sum": 8.0, "sum_squares": 12.0}
# They need model files of onnx and openvino; they write through add_graph.
NOT_TRIED = {"add_onnx_graph", "add_openvino_graph"}
CALLS: dict[str, Callable[[Writer], Any]] = {
    "add_scalar": lambda w: w.add_scalar("scalar", 0.5, 1),
    "add_scalars": lambda w: w.add_scalars("scalars", {"a": 1.0, "b": 2.0}, 1),
    "add_histogram": lambda w: w.add_histogram("histogram", np.arange(10), 1),
    "add_histogram_raw": lambda w: w.add_histogram_raw(
        "raw", bucket_limits=[1.0, 2.0, 3.0], bucket_counts=[1, 2, 3], global_step=1, **COUNTS
    ),
    "add_image": lambda w: w.add_image("image", torch.rand(3, 4, 4), 1),
    "add_images": lambda w: w.add_images("images", torch.rand(2, 3, 4, 4), 1),
    "add_image_with_boxes": lambda w: w.add_image_with_boxes(
        "boxes", torch.rand(3, 8, 8), torch.tensor([[1.0, 1.0, 5.0, 5.0]]), 1
    ),
    "add_figure": figure,
    "add_video": video,
    "add_audio": audio,
    "add_text": lambda w: w.add_text("text", "words", 1),
    "add_graph": lambda w: w.add_graph(torch.nn.Linear(2, 2), torch.zeros(1, 2)),
    "add_embedding": embedding,
    "add_pr_curve": lambda w: w.add_pr_curve("pr", np.array([0, 1, 1]), np.array([0.1, 0.8, 0.6]), 1),
    "add_pr_curve_raw": lambda w: w.add_pr_curve_raw("pr_raw", num_thresholds=2, global_step=1, **CURVE),
    "add_custom_scalars": lambda w: w.add_custom_scalars(LAYOUT),
    "add_custom_scalars_multilinechart": lambda w: w.add_custom_scalars_multilinechart(["a", "b"]),
    "add_custom_scalars_marginchart": lambda w: w.add_custom_scalars_marginchart(["a", "b", "c"]),
    "add_hparams": lambda w: w.add_hparams({"lr": 0.1, "name": "x"}, {"hparam/accuracy": 0.9}, name="trial"),
    "add_mesh": lambda w: w.add_mesh("mesh", torch.rand(1, 4, 3), global_step=1),
}


def contents(folder: Path) -> dict[str, list[Any]]:
    """The contents of all event files in and below the folder, without times."""
    read: dict[str, list[Any]] = {}
    for path in sorted(folder.rglob("*tfevents*")):
        events = []
        for event in LegacyEventFileLoader(str(path)).Load():
            event.ClearField("wall_time")
            event.ClearField("source_metadata")
            if not event.file_version:
                events.append(event.SerializeToString(deterministic=True))
        read.setdefault(str(path.parent.relative_to(folder)), []).extend(events)
    return read


def test_summary_writer_every_method_called() -> None:
    public = {name for name in dir(tensorboardX.SummaryWriter) if name.startswith("add_")}
    assert set(CALLS) | NOT_TRIED == public


@pytest.mark.parametrize("name", CALLS)
def test_summary_writer_writes_same_as_tensorboardx(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    with SummaryWriter(str(tmp_path / "ours")) as ours:
        CALLS[name](ours)
    torch.manual_seed(0)
    with tensorboardX.SummaryWriter(str(tmp_path / "theirs")) as theirs:
        CALLS[name](theirs)
    written, expected = contents(tmp_path / "ours"), contents(tmp_path / "theirs")
    assert {folder: events for folder, events in written.items() if events} == {
        folder: events for folder, events in expected.items() if events
    }
    other = {path.name for path in (tmp_path / "ours").rglob("*") if "tfevents" not in path.name}
    assert other == {path.name for path in (tmp_path / "theirs").rglob("*") if "tfevents" not in path.name}
    assert any(written.values()) or "projector_config.pbtxt" in other
    assert all("tfevents" in path.name for path in files(tmp_path / "ours"))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(4, dtype=torch.bfloat16),
        torch.empty(0),
        torch.full((3,), float("nan")),
        torch.arange(5),
        torch.zeros(3, dtype=torch.bool),
        torch.tensor(2.0, dtype=torch.float16),
    ],
    ids=["bf16", "empty", "nan", "int", "bool", "0-d fp16"],
)
def test_full_set_odd_weight_kind_training_continues(tmp_path: Path, tensor: torch.Tensor) -> None:
    from tbx_callbacks._config.metric_set import load_config
    from tbx_callbacks._config.schedule import every
    from tbx_callbacks._engine.engine import Engine
    from tbx_callbacks._engine.training_info import TrainingInfo

    model = torch.nn.Linear(2, 2)
    model.odd = torch.nn.Parameter(tensor, requires_grad=False)
    if tensor.is_floating_point() and tensor.numel():
        model.odd.requires_grad_()
        model.odd.grad = tensor.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = load_config({"extends": "full", "every": 1, "strict": True})
    writer = TensorBoardWriter(tmp_path)
    engine = Engine(config.items, every=1, strict=True, writer=writer)
    engine.start(TrainingInfo(model, {"SGD": optimizer}, log_schedule=every(1)))
    for step in range(1, 101):
        engine.begin_step(step)
        optimizer.step()
        engine.flush_step()
    engine.end(100, succeeded=True)
    writer.close()
    read = Run(tmp_path)
    assert read.steps("weight_norm/weight") == list(range(1, 101))
    readable = tensor.is_floating_point() and tensor.numel() and torch.isfinite(tensor).all()
    assert ("weights/odd" in read.histograms) == bool(readable)


def test_summary_writer_methods_write_events(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("scalar", 1.5, 3)
        writer.add_histogram("histogram", torch.arange(10.0), 3)
        writer.add_text("text", "words", 3)
        writer.add_image("image", torch.rand(3, 4, 4), 3)
    read = Run(tmp_path)
    assert read.at("scalar") == {3: 1.5}
    assert read.histograms["histogram"][3].num == 10
    assert read.texts["text"] == ["words"]


def test_null_summary_writer_has_every_method() -> None:
    writer = NullSummaryWriter()
    for name in dir(SummaryWriter):
        if not name.startswith("_") and callable(getattr(SummaryWriter, name)) and name != "use_metadata":
            assert getattr(writer, name)(1, 2, three=3) is None
    with pytest.raises(AttributeError):
        writer.add_nothing()
    with writer as same, same.use_metadata(global_step=3) as also:
        also.add_scalar("a", 1.0)


def test_summary_writer_after_close_purges_once(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path), purge_step=5)
    for step in (5, 6, 7):
        writer.add_scalar("a", float(step), step)
    writer.close()
    writer.add_scalar("a", 8.0, 8)
    writer.close()
    assert Run(tmp_path).steps("a") == [5, 6, 7, 8]


def test_summary_writer_later_open_fails_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    writer = SummaryWriter(str(folder))
    writer.close()
    shutil.rmtree(folder)
    folder.write_text("in the way")
    writer.add_scalars("both", {"x": 1.0, "y": 2.0}, 1)
    writer.add_hparams({"lr": 0.1}, {"loss": 1.0})
    writer.add_scalar("a", 1.0, 1)
    writer.flush()
    folder.unlink()
    writer.add_scalar("a", 2.0, 2)
    writer.close()
    assert Run(folder).steps("a") == [1, 2]
    assert Run(folder / "both" / "x").steps("both") == [1]
    lost = [record.getMessage() for record in caplog.records if "are lost" in record.getMessage()]
    assert len(lost) == 1  # the hparams, whose writer is closed at once
    assert lost[0].startswith("4 values could not be written")
