"""Tests writers that stand beside the TensorBoard writer: what they get, and that none of them harms the run."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tbx_callbacks import TbxLoop
from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks.writers import (
    FinalValue,
    HistogramCounts,
    HParams,
    MemoryWriter,
    TensorBoardWriter,
    Text,
)
from tbx_callbacks.writers import fan_out as module
from tbx_callbacks.writers.fan_out import FanOutWriter
from tests.helpers.runs import Run, files
from tests.helpers.writers import FailingWriter, HangingWriter, Spec

STEPS = range(1, 21)


def run(folder: Path, *specs: Spec) -> None:
    """Writes a run as a training does."""
    writer = FanOutWriter(TensorBoardWriter(folder), specs)
    for step in STEPS:
        writer.write(step, {"train/loss": 1 / step})
        if step == 10:
            writer.flush()
    writer.close()


def writer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("tbx-writer")]


def expect_whole(folder: Path) -> None:
    assert Run(folder).scalars == {"train/loss": [(step, pytest.approx(1 / step)) for step in STEPS]}


def test_fan_out_memory_writer_gets_written_values(tmp_path: Path) -> None:
    memory = Spec(MemoryWriter)
    writer = FanOutWriter(TensorBoardWriter(tmp_path), [memory], axes=["samples"])
    counts = HistogramCounts((1, 0, 3), 0.0, 3.0, 7.0, 20.0)
    writer.write(1, {"a": 1.0, "h": counts, "axis:samples": 8.0})
    writer.write(2, {"axis:samples": 8.0})
    writer.write(3, {"a": 2.0, "t": Text("words")})
    writer.close()
    (kept,) = memory.built
    assert kept.log_dir == str(tmp_path) == writer.log_dir
    assert kept.closed
    assert kept.batches == [(1, {"a": 1.0, "h": counts}), (3, {"a": 2.0, "t": Text("words")})]
    read = Run(tmp_path)
    assert read.scalars == {"a": kept.series("a")}
    assert set(read.histograms) | set(read.texts) == {"h", "t"}


def test_fan_out_two_of_a_class_separate(tmp_path: Path) -> None:
    first, second = Spec(MemoryWriter), Spec(MemoryWriter)
    run(tmp_path, first, second)
    (one,), (other,) = first.built, second.built
    assert one is not other
    assert one.batches == other.batches == [(step, {"train/loss": 1 / step}) for step in STEPS]


@pytest.mark.parametrize(
    ("method", "call", "calls"),
    [
        ("__init__", 1, 1),
        ("write", 1, 2),
        ("write", 15, 17),
        ("flush", 1, 12),
        ("close", 1, 23),
    ],
)
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_fan_out_failing_writer_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str, call: int, calls: int, error: type[BaseException]
) -> None:
    failing: Any = None

    def keep(log_dir: str) -> MemoryWriter:
        nonlocal failing
        failing = FailingWriter.__new__(FailingWriter)
        failing.__init__(log_dir, method, error, call)
        return failing  # type: ignore[no-any-return]

    memory = Spec(MemoryWriter)
    run(tmp_path, Spec(keep), memory)
    expect_whole(tmp_path)
    assert memory.built[0].series("train/loss") == [(step, 1 / step) for step in STEPS]
    assert memory.built[0].closed
    assert len(failing.calls) == calls  # it is left alone afterwards
    (record,) = caplog.records
    stage = "construction" if method == "__init__" else method
    assert record.getMessage() == (
        f"writer keep is disabled: {stage} raised {error.__name__}('no room');"
        " training and other writers continue; fix or remove it"
    )


def test_fan_out_writer_without_other_methods_works(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps = []

    class OnlyWrites:
        def __init__(self, log_dir: str) -> None:
            pass

        def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
            steps.append(step)

    writer = FanOutWriter(TensorBoardWriter(tmp_path), [Spec(OnlyWrites)])  # type: ignore[arg-type]
    writer.write(1, {"a": 1.0})
    writer.purge(1)
    writer.flush()
    writer.close()
    assert steps == [1]
    assert not caplog.records


def test_fan_out_changed_values_unchanged_for_others(tmp_path: Path) -> None:
    class Changing(MemoryWriter):
        def write(self, step: int, values: Any) -> None:
            values["a"] = 9.0
            values["p"].values["lr"] = 9.0

    memory, values = Spec(MemoryWriter), {"a": 1.0, "p": HParams({"lr": 0.1})}
    writer = FanOutWriter(TensorBoardWriter(tmp_path), [Spec(Changing), memory])
    writer.write(1, values)
    writer.close()
    assert memory.built[0].batches == [(1, {"a": 1.0, "p": HParams({"lr": 0.1})})]
    assert values == {"a": 1.0, "p": HParams({"lr": 0.1})}


@pytest.mark.parametrize("method", ["__init__", "write", "close"])
def test_fan_out_hanging_writer_left_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(module, "_CLOSE_SECS", 0.3)
    release, memory = threading.Event(), Spec(MemoryWriter)
    hanging = Spec(HangingWriter, {"method": method, "release": release})
    run(tmp_path, hanging, memory)
    expect_whole(tmp_path)
    assert len(memory.built[0].batches) == len(STEPS)
    lost = 0 if method == "close" else len(STEPS)
    (record,) = caplog.records
    assert record.getMessage() == f"writer HangingWriter did not finish within 0.3 s: {lost} values may be lost"
    release.set()


def test_fan_out_slow_writer_misses_counted_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    release, memory = threading.Event(), Spec(MemoryWriter)
    slow = Spec(HangingWriter, {"method": "write", "release": release})
    writer = FanOutWriter(TensorBoardWriter(tmp_path), [slow, memory])
    for step in range(1, 1001):  # none waits for the slow writer, which has finished none
        writer.write(step, {"a": float(step)})
        if step % 100 == 0:
            writer._others[1]._worker.drain(10)
    assert len(Run(tmp_path).steps("a")) == len(memory.built[0].batches) == 1000
    release.set()
    writer.close()
    (kept,) = slow.built
    assert kept.closed
    assert [step for step, _ in kept.batches] == list(range(1, module._MAX_PENDING + 1))
    assert [record.getMessage() for record in caplog.records] == [
        f"writer HangingWriter misses values from step {module._MAX_PENDING + 1} on:"
        " it is slower than the training; log less often",
        f"writer HangingWriter missed {1000 - module._MAX_PENDING} values: it is slower than the training"
        "; log less often",
    ]


def test_fan_out_purge_reaches_every_writer(tmp_path: Path) -> None:
    memory = Spec(MemoryWriter)
    writer = FanOutWriter(TensorBoardWriter(tmp_path), [memory])
    for step in range(1, 8):
        writer.write(step, {"a": float(step)})
    writer.purge(5)
    writer.write(5, {"a": -5.0})
    writer.close()
    assert memory.built[0].series("a") == Run(tmp_path).scalars["a"]


def test_fan_out_written_after_close_builds_again(tmp_path: Path) -> None:
    memory = Spec(MemoryWriter)
    writer = FanOutWriter(TensorBoardWriter(tmp_path), [memory])
    writer.close()
    assert not memory.built
    for step in (1, 2):
        writer.write(step, {"a": float(step)})
        writer.close()
        writer.close()
    assert [kept.batches for kept in memory.built] == [[(1, {"a": 1.0})], [(2, {"a": 2.0})]]
    for thread in writer_threads():
        thread.join(10)
    assert not writer_threads()
    assert Run(tmp_path).steps("a") == [1, 2]


def test_fan_out_without_others_starts_no_thread(tmp_path: Path) -> None:
    writer = FanOutWriter(TensorBoardWriter(tmp_path), [])
    writer.write(1, {"a": 1.0})
    assert not writer_threads()
    assert writer.summary_writer.file_writer is not None
    writer.close()


def test_fan_out_unpicklable_writer_rebuilt_in_copy(tmp_path: Path) -> None:
    spec = Spec(HangingWriter, {"method": "none", "release": None})
    writer = FanOutWriter(TensorBoardWriter(tmp_path), [spec])
    writer.write(1, {"a": 1.0})
    writer.flush()
    spec.built.append(threading.Lock())  # as a writer with a connection
    copy: FanOutWriter = pickle.loads(pickle.dumps(writer))
    copy.write(2, {"a": 2.0})
    copy.close()
    writer.close()
    assert Run(tmp_path).steps("a") == [1, 2]
    assert len(files(tmp_path)) == 2
    (built,) = copy._others[0]._spec.built  # type: ignore[attr-defined]
    assert built.batches == [(2, {"a": 2.0})]


class Noisy(MemoryWriter):
    """Does all that a training must not notice."""

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        if step == 4:
            raise KeyboardInterrupt


def trained(folder: Path, *specs: Any) -> dict[str, torch.Tensor]:
    """Trains with writers beside TensorBoard's; returns the weights."""
    config = load_config("full")
    config = replace(config, writers=(*config.writers, *specs))
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, config, log_dir=folder, log_every=2, hparams={"lr": 0.1}) as loop:
        for step in range(1, 13):
            loss = model(torch.randn(8, 4)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=8)
            if step == 6:
                loop.evaluate(accuracy=0.5)
    return model.state_dict()


def test_fan_out_training_same_beside_bad_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOSE_SECS", 0.2)
    release, memory = threading.Event(), Spec(MemoryWriter)
    alone = trained(tmp_path / "alone")
    hanging = Spec(HangingWriter, {"method": "write", "release": release})
    beside = trained(tmp_path / "beside", Spec(Noisy), hanging, memory)
    release.set()
    assert all(torch.equal(alone[name], beside[name]) for name in alone)
    read, expected = Run(tmp_path / "beside"), Run(tmp_path / "alone")
    assert read.scalars.keys() == expected.scalars.keys()
    assert read.scalars["train/loss"] == expected.scalars["train/loss"]
    # The memory has exactly the values of the event file.
    (kept,) = memory.built
    for tag, points in read.scalars.items():
        assert [(step, float(np.float32(value))) for step, value in kept.series(tag)] == points
    for tag, by_step in read.histograms.items():
        assert {step: list(value.counts) for step, value in kept.series(tag)} == {
            step: list(proto.bucket)[1:] for step, proto in by_step.items()
        }
    scalars = {tag for tag in kept.tags if isinstance(kept.last(tag), float)}
    histograms = {tag for tag in kept.tags if isinstance(kept.last(tag), HistogramCounts)}
    texts = {tag for tag in kept.tags if isinstance(kept.last(tag), Text)}
    assert (scalars, histograms, texts) == (read.scalars.keys(), read.histograms.keys(), read.texts.keys())
    assert any(isinstance(kept.last(tag), HParams) for tag in kept.tags)
