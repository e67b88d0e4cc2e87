"""Tests what writers leave behind: threads, handles, exit hooks and references; after close, drop, fork and exit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tbx_callbacks.writers.event_writer import EventWriter
from tests.helpers.events import scalar_event
from tests.helpers.processes import python
from tests.helpers.runs import ROOT, Run, files
from tests.helpers.variations import variations

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")

PRELUDE = """
import atexit, gc, os, resource, sys, threading, time, weakref
from tbx_callbacks.writers import MemoryWriter, TensorBoardWriter
from tbx_callbacks.writers.fan_out import FanOutWriter
from tbx_callbacks.writers.summary_writer import SummaryWriter
from tests.helpers.handles import handles, resources
from tests.helpers.writers import FailingWriter, Spec
"""
MANY = (
    PRELUDE
    + """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
gc.disable()  # a reference cycle would keep a writer

def fill(writer, steps=(1, 2, 3)):
    for step in steps:
        writer.write(step, {"a": float(step), "axis:samples": 8.0})

def tensorboard(folder):
    fill(writer := TensorBoardWriter(folder))
    return writer

def summary(folder):
    writer = SummaryWriter(folder)
    for step in (1, 2, 3):
        writer.add_scalar("a", float(step), step)
    writer.add_scalars("both", {"x": 1.0, "y": 2.0}, 1)
    writer.add_hparams({"lr": 0.1}, {"hparam/loss": 1.0}, name="trial")
    return writer

def fan_out(folder):
    others = [Spec(MemoryWriter), Spec(FailingWriter, {"method": "write", "call": 2})]
    fill(writer := FanOutWriter(TensorBoardWriter(folder), others, axes=["samples"]))
    return writer

def close(writer):
    writer.close()

def close_twice(writer):
    writer.close()
    writer.close()

def write_after_close(writer):
    writer.close()
    if isinstance(writer, SummaryWriter):
        writer.add_scalar("a", 4.0, 4)
    else:
        fill(writer, (4,))
    writer.close()

def drop(writer):
    pass

def drop_in_circle(writer):
    writer.itself = writer

def drop_on_thread(writer):
    box = [writer]
    del writer
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()

def settled():
    # The thread of a writer beside TensorBoard's may end a moment after its last call.
    deadline = time.monotonic() + 60
    while resources() != before and time.monotonic() < deadline:
        time.sleep(0.001)
    return resources()

make = globals()[sys.argv[1]]
ends = [close, close_twice, write_after_close, drop, drop_in_circle, drop_on_thread]
hooks = atexit._ncallbacks()
gc.freeze()
for number in range(50 * len(ends)):
    end = ends[number // 50]
    before = resources()
    writer = make(f"{sys.argv[2]}/{end.__name__}/{number % 50}")
    assert resources() != before
    gone = weakref.ref(writer)
    end(writer)
    if "close" in end.__name__:
        assert resources() == before, (before, resources())
    del writer
    if end is drop_in_circle:
        gc.collect()
    assert gone() is None
    assert settled() == before, (before, resources())
    assert atexit._ncallbacks() == hooks
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("make", variations(["tensorboard", "summary", "fan_out"], "fan_out"))
def test_fifty_writers_leave_nothing_behind(tmp_path: Path, make: str) -> None:
    done = python("-c", MANY, make, tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
    for end in ("close", "close_twice", "write_after_close", "drop", "drop_in_circle", "drop_on_thread"):
        for number in (0, 49):
            written = Run(tmp_path / end / str(number)).steps("a")
            assert written == ([1, 2, 3, 4] if end == "write_after_close" else [1, 2, 3])


FORKS = (
    PRELUDE
    + """
def in_child(act):
    child = os.fork()
    if child == 0:
        try:
            act()
        except Exception as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        atexit._run_exitfuncs()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

folder = sys.argv[1]
writer = TensorBoardWriter(f"{folder}/run")
unopened = TensorBoardWriter(f"{folder}/unopened")
closed = TensorBoardWriter(f"{folder}/closed")
closed.write(1, {"a": 1.0})
closed.close()
before = handles()
writer.write(1, {"a": 1.0})
assert handles() != before
inherited = [writer]

def look():
    assert handles() == before, handles()

def use():
    writer.write(2, {"child": 1.0}); writer.flush(); writer.close(); writer.write(3, {"child": 1.0}); writer.close()
    assert handles() == before

def drop():
    global writer
    inherited.clear()
    del writer
    gc.collect()

def write_own_run():
    own = TensorBoardWriter(f"{folder}/own")
    own.write(1, {"a": 1.0})
    own.close()
    assert handles() == before
    own.write(2, {"a": 2.0})  # the exit of this process writes it

def write_uninherited():
    unopened.write(1, {"a": 1.0})
    closed.write(2, {"a": 2.0})

def grandchild():
    in_child(write_own_run_again)

def write_own_run_again():
    look()
    TensorBoardWriter(f"{folder}/grandchild").write(1, {"a": 1.0})

for act in (look, use, drop, write_own_run, write_uninherited, grandchild):
    in_child(act)
writer.write(4, {"a": 4.0})
for step in range(5, 105):
    writer.write(step, {"a": float(step)})
    if step % 5 == 0:
        in_child(look)
"""
)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_child_frees_handle_and_writes_nothing(tmp_path: Path) -> None:
    done = python("-W", "ignore::DeprecationWarning", "-c", FORKS, tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert Run(tmp_path / "run").scalars == {"a": [(step, float(step)) for step in (1, *range(4, 105))]}
    assert len(files(tmp_path / "run")) == 1
    read = {name: Run(tmp_path / name).steps("a") for name in ("own", "unopened", "closed", "grandchild")}
    assert read == {"own": [1, 2], "unopened": [1], "closed": [1, 2], "grandchild": [1]}


EXITS = {
    "write after close": "writer.close(); writer.write(2, {'a': 2.0})",
    "write in an early exit hook": "atexit.register(lambda: writer.write(2, {'a': 2.0}))",
    "write in the last exit hook": "last.append(lambda: writer.write(2, {'a': 2.0}))",
    "write and drop in the last exit hook": "last.append(lambda: TensorBoardWriter(folder).write(2, {'a': 2.0}))",
    "dropped": "writer.write(2, {'a': 2.0}); del writer",
    "dropped in a circle": "writer.write(2, {'a': 2.0}); writer.itself = writer; del writer",
    "in a module": "writer.write(2, {'a': 2.0}); sys.writer = writer",
    "many": "others = [TensorBoardWriter(folder) for _ in range(9)]\n"
    "for step, other in enumerate(others, 2): other.write(step, {'a': float(step)})",
}


# Each child is forked before it has a writer, so that all children share one import of torch.
EXITING = f"""
import atexit
last = []
atexit.register(lambda: [act() for act in last])
{PRELUDE}
for folder, code in zip(sys.argv[1::2], sys.argv[2::2]):
    child = os.fork()
    if child == 0:
        writer = TensorBoardWriter(folder)
        writer.write(1, {{"a": 1.0}})
        exec(code)
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, code
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_exit_writes_all_events(tmp_path: Path) -> None:
    arguments = [part for name, code in EXITS.items() for part in (name, code)]
    done = python("-W", "ignore::DeprecationWarning", "-c", EXITING, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    written = {name: Run(tmp_path / name).steps("a") for name in EXITS}
    assert written == {name: list(range(1, 11)) if name == "many" else [1, 2] for name in EXITS}


def test_drop_without_disk_reports_losses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def open_nothing() -> None:
        raise OSError("no disk")

    writer = EventWriter(str(tmp_path), open_nothing)  # type: ignore[arg-type]
    writer.add_event(scalar_event(1))
    del writer
    assert "no disk; training continues" in caplog.text
    assert f"20 values could not be written to {tmp_path} and are lost" in caplog.text


@pytest.mark.slow
def test_thread_limit_at_open_is_error(tmp_path: Path) -> None:
    code = (
        "import sys, threading\n"
        "from tbx_callbacks.writers import LogDirError, TensorBoardWriter\n"
        "from tests.helpers.handles import resources\n"
        "writer, later = TensorBoardWriter(sys.argv[1] + '/1'), TensorBoardWriter(sys.argv[1] + '/2')\n"
        "later.write(1, {'a': 1.0})\n"
        "later.close()\n"
        "before, start = resources(), threading.Thread.start\n"
        "def fail(thread):\n"
        '    raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = fail\n"
        "try:\n"
        "    writer.write(1, {'a': 1.0})\n"
        "except LogDirError as error:\n"
        "    print(error)\n"
        "later.write(2, {'a': 2.0})  # goes on without a thread\n"
        "assert resources() == before\n"
    )
    done = python("-c", code, tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "can't start new thread" in done.stdout
    assert Run(tmp_path / "2").steps("a") == [1, 2]
