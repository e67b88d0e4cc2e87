"""The event writer: what is on the disk, and when."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.writers.event_writer import EventWriter
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.processes import python
from tests.helpers.runs import Run, files

# Each child is forked before it has a writer, so that all of them share one import of torch.
ENDINGS = """
import os, sys
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

for folder, ending in zip(sys.argv[1::2], sys.argv[2::2]):
    child = os.fork()
    if child == 0:
        writer = TensorBoardWriter(folder)
        for step in range(1, 201):
            writer.write(step, {"a": float(step), "b": 2.0 * step})
        exec(ending)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

writer = TensorBoardWriter("forked")
writer.write(1, {"parent": 1.0})
child = os.fork()
if child == 0:
    writer.write(2, {"child": 1.0}); writer.flush(); writer.close(); os._exit(0)
os.waitpid(child, 0)
writer.write(3, {"parent": 3.0})
writer.close()
"""
WAYS_TO_END = {
    "flush": ("writer.flush(); os._exit(3)", 3),
    "sys.exit": ("sys.exit(3)", 3),
    "close": ("writer.close(); os._exit(3)", 3),
    "exception": ("raise ZeroDivisionError", 1),
}
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder for each way to end and one of a forked child, and the process that wrote them."""
    folder = tmp_path_factory.mktemp("ended")
    arguments = [part for name, (ending, _) in WAYS_TO_END.items() for part in (name, ending)]
    done = python("-W", "ignore::DeprecationWarning", "-c", ENDINGS, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


@needs_fork
@pytest.mark.parametrize("way", WAYS_TO_END)
def test_nothing_is_lost_at_the_end_of_the_process(
    ended: tuple[Path, subprocess.CompletedProcess[str]], way: str
) -> None:
    folder, done = ended
    assert dict(zip(WAYS_TO_END, map(int, done.stdout.split()), strict=True))[way] == WAYS_TO_END[way][1]
    assert done.stderr.count("ZeroDivisionError") == 1
    read = Run(folder / way)
    assert read.scalars["a"] == [(step, float(step)) for step in range(1, 201)]
    assert read.steps("b") == list(range(1, 201))


@needs_fork
def test_a_forked_child_writes_nothing(ended: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = ended
    assert Run(folder / "forked").scalars == {"parent": [(1, 1.0), (3, 3.0)]}
    assert len(files(folder / "forked")) == 1


def test_data_is_in_the_file_without_a_flush(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"a": 1.0})
    event = writer.summary_writer.file_writer.event_writer
    deadline = 200
    while not Run(tmp_path).scalars and deadline:
        deadline -= 1
        event._thread.join(0.02)
    assert Run(tmp_path).scalars == {"a": [(1, 1.0)]}
    writer.close()


def test_one_event_a_step_and_the_files_header(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    counts = HistogramCounts((1, 0, 3), 0.0, 3.0, 7.0, 20.0)
    writer.write(5, {"a": 1.0, "b": 2.0, "h": counts})
    writer.close()
    (path,) = files(tmp_path)
    events = list(LegacyEventFileLoader(str(path)).Load())
    assert [event.step for event in events] == [0, 5]
    assert events[0].file_version == "brain.Event:2"
    assert {value.tag for value in events[1].summary.value} == {"a", "b", "h"}


def test_histograms_keep_every_number(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"h": HistogramCounts((2, 0, 3, 1), -1.0, 3.0, 4.5, 11.0)})
    writer.close()
    proto = Run(tmp_path).histograms["h"][1]
    assert (proto.min, proto.max, proto.num, proto.sum, proto.sum_squares) == (-1.0, 3.0, 6.0, 4.5, 11.0)
    assert list(proto.bucket) == [0, 2, 0, 3, 1]
    assert list(proto.bucket_limit) == [-1.0, 0.0, 1.0, 2.0, 3.0]


def test_writers_in_one_folder_never_share_a_file(tmp_path: Path) -> None:
    writers = [TensorBoardWriter(tmp_path) for _ in range(5)]
    for place, writer in enumerate(writers):
        writer.write(1, {f"writer{place}": 1.0})
    for writer in writers:
        writer.close()
    assert len(files(tmp_path)) == 5
    assert set(Run(tmp_path).scalars) == {f"writer{place}" for place in range(5)}


def test_writing_after_close_opens_another_file(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in (1, 2):
        writer.write(step, {"a": float(step)})
        writer.close()
    assert len(files(tmp_path)) == 2
    assert Run(tmp_path).steps("a") == [1, 2]


def test_the_summary_writers_api_goes_through(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("scalar", 1.5, 3)
        writer.add_histogram("histogram", torch.arange(10.0), 3)
        writer.add_text("text", "words", 3)
        writer.add_image("image", torch.rand(3, 4, 4), 3)
    read = Run(tmp_path)
    assert read.at("scalar") == {3: 1.5}
    assert read.histograms["histogram"][3].num == 10
    assert read.texts["text"] == ["words"]


def test_purge_step_hides_what_is_trained_again(tmp_path: Path) -> None:
    for purge, steps in ((None, range(10)), (5, range(5, 8))):
        writer = SummaryWriter(str(tmp_path), purge_step=purge)
        for step in steps:
            writer.add_scalar("a", float(step), step)
        writer.close()
    assert Run(tmp_path).steps("a") == list(range(8))


def test_the_null_writer_has_the_whole_api() -> None:
    writer = NullSummaryWriter()
    for name in dir(SummaryWriter):
        if not name.startswith("_") and callable(getattr(SummaryWriter, name)) and name != "use_metadata":
            assert getattr(writer, name)(1, 2, three=3) is None
    with pytest.raises(AttributeError):
        writer.add_nothing()
    with writer as same, same.use_metadata(global_step=3) as also:
        also.add_scalar("a", 1.0)


def test_tags_arrive_as_they_are(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"eval/F1 (macro) %": 1.0, "größe": 2.0})
    writer.close()
    assert set(Run(tmp_path).scalars) == {"eval/F1 (macro) %", "größe"}


class Stuck:
    """A file that takes nothing, or nothing for a while."""

    path, volatile = "stuck", False

    def __init__(self) -> None:
        self.works = False
        self.written = 0

    def write(self, records: bytes) -> None:
        if not self.works:
            raise OSError("stuck")
        self.written += len(records)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def scalar_event(step: int, values: int = 20) -> object:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    return Event(
        step=step, summary=Summary(value=[Summary.Value(tag=f"t{n}", simple_value=1.0) for n in range(values)])
    )


def test_a_backlog_drains_whole_once_the_disk_works(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    writer = EventWriter("folder", lambda: stuck, max_mib=32.0)
    for step in range(40_000):
        writer.add_event(scalar_event(step))
    waiting = writer._backlog.bytes
    assert waiting > 4 * 2**20
    stuck.works = True
    writer.close()
    assert stuck.written > waiting
    assert "are lost" not in caplog.text


def test_a_full_backlog_looks_at_each_event_a_few_times_only() -> None:
    from tbx_callbacks.writers.backlog import Backlog

    looks = 0

    class Counting(Backlog):
        def _counted(self, event: object) -> tuple[object, int, bool]:
            nonlocal looks
            looks += 1
            return super()._counted(event)

    backlog = Counting(1 << 20)
    for step in range(20_000):
        backlog.add(scalar_event(step))
        assert backlog.bytes <= 1 << 20
    assert looks == 20_000


def test_an_event_larger_than_the_memory_is_lost_and_nothing_hangs(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path, max_mib=0.001)
    writer.write(1, {f"tag/{n}": 1.0 for n in range(500)})
    writer.write(2, {"small": 1.0})
    event_writer = writer.summary_writer.file_writer.event_writer
    assert event_writer.flush()
    assert event_writer._stored == event_writer._added == 3 - 1
    writer.close()
    assert Run(tmp_path).scalars == {"small": [(2, 1.0)]}


def test_a_store_that_hangs_does_not_keep_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import threading

    monkeypatch.setattr("tbx_callbacks.writers.event_writer._CLOSE_SECS", 0.2)
    released = threading.Event()

    class Hangs(Stuck):
        def write(self, records: bytes) -> None:
            released.wait(60)

    writer = EventWriter("folder", Hangs)
    writer.add_event(scalar_event(1))
    writer.close()  # returns
    assert not released.is_set()
    released.set()
    assert "20 values could not be written to folder and are lost" in caplog.text
