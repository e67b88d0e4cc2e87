"""What the training thread does on an accelerator, as far as that can be seen without one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._distributed.worker import Worker
from tbx_callbacks._engine.publisher import OrderedQueue
from tbx_callbacks._stats.host_copy import HostCopy
from tests.helpers.processes import python
from tests.helpers.runs import ROOT


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot make up a device",
)
def test_measuring_reads_nothing_and_waits_for_no_copy(tmp_path: Path) -> None:
    script = ROOT / "tests" / "helpers" / "fake_accelerator.py"
    ended = python(script, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    said = dict(line.split(" ", 1) for line in ended.stdout.splitlines() if " " in line)
    data_dependent = "DataDependentOutputException"
    assert said["raises"].split()[:2] == [data_dependent, data_dependent]  # the check can fail
    assert "nothing" not in said["raises"].split()
    assert said["agreed"] == "1 accel"
    assert said["changed"] == "cpu"
    measured = said["measured"].split()
    for tag in ("grad_norm/body.1", "weights/embed", "grads/head", "updates/body.0", "optimizer_state/exp_avg/head"):
        assert tag in measured
    for tag in (
        "activations/body.0/norm",
        "nonfinite/first_bad",
        "train/accuracy",
        "update_ratio/embed",
        "clip/factor",
        "mine/loss",
    ):
        assert tag in measured


def test_jobs_run_at_once_or_behind_one_that_waits() -> None:
    done: list[tuple[int, bool]] = []
    go, main = threading.Event(), threading.current_thread()

    def job(number: int) -> None:
        done.append((number, threading.current_thread() is main))

    def waiting() -> None:
        go.wait(10)
        job(2)

    behind = OrderedQueue()
    behind.run(lambda: job(1))
    assert done == [(1, True)]
    behind.run(waiting, waits=True)
    behind.run(lambda: job(3))
    assert len(done) == 1
    assert not behind.drain(0.01)
    go.set()
    assert behind.drain(10)
    behind.run(lambda: job(4))
    assert done == [(1, True), (2, False), (3, False), (4, True)]


def test_a_job_that_fails_on_the_thread_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    behind, done = OrderedQueue(), []
    behind.run(lambda: print(1 / 0), waits=True)
    behind.run(lambda: print(1 / 0), waits=True)
    behind.run(lambda: done.append(time.monotonic()), waits=True)
    assert behind.drain(10)
    assert len(done) == 1
    assert caplog.text.count("publishing failed; the step's numbers are left out: ZeroDivisionError") == 1


def test_ranges_of_a_step_are_merged_in_one_copy_and_keep_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[torch.Size] = []
    copy = HostCopy._copy
    monkeypatch.setattr(HostCopy, "_copy", lambda self, packed: (copies.append(packed.shape), copy(self, packed))[1])

    class Other:
        """Another rank whose smallest element is -5 everywhere, and whose largest is 0."""

        rank, size = 0, 1

        def all_reduce_max(self, numbers: torch.Tensor) -> None:
            if len(numbers) > 5:  # the numbers behind the head; see Merger
                numbers[5:7] = torch.maximum(numbers[5:7], torch.tensor([5.0, 0.0]))

        def broadcast(self, numbers: torch.Tensor, root: int) -> None:
            pass

        def close(self) -> bool:
            return True

    ranks = Reducer(Other(), 10.0)  # type: ignore[arg-type]
    ranges = {f"tag {n}": torch.tensor([-float(n), n + 0.5], dtype=torch.float64) for n in range(3)}
    found = ranks.merge_ranges(1, ["due"], ranges)
    ranks.shutdown(10.0)
    assert copies == [torch.Size([6])]
    assert {tag: bounds.tolist() for tag, bounds in found.items()} == {
        "tag 0": [-5.0, 0.5],
        "tag 1": [-1.0, 1.5],
        "tag 2": [-2.0, 2.5],
    }


def test_numbers_come_back_in_their_places() -> None:
    scalars = [1.5, torch.tensor(2.0), torch.tensor([3], dtype=torch.int64), 4, torch.tensor(5.0, dtype=torch.float64)]
    vectors = [torch.tensor([6.0, 7.0]), torch.empty(0), torch.tensor([8.0], dtype=torch.float64)]
    fetch = HostCopy(scalars, vectors)
    assert not fetch.is_pending
    assert fetch.read() == ([1.5, 2.0, 3.0, 4.0, 5.0], [[6.0, 7.0], [], [8.0]])
    assert HostCopy([], []).read() == ([], [])


def test_other_threads_wait_on_the_device_that_they_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(chosen.index)
        yield
        current.pop()

    class Event:
        def synchronize(self) -> None:
            waited.append(current[-1])

    monkeypatch.setattr(torch.cuda, "device", device)
    waited: list[int] = []
    fetch = HostCopy([1.0], [])
    fetch._events = [(torch.device("cuda", 3), Event()), (torch.device("cuda", 1), Event())]  # type: ignore[list-item]
    assert fetch.read() == ([1.0], [])
    assert waited == [3, 1]
    assert current == [0]


def test_a_thread_of_ours_has_the_device_of_the_thread_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[str, int]] = []

    def set_device(device: int) -> None:
        found.append((threading.current_thread().name, device))

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    for name, started in (("without", False), ("with", True)):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda started=started: started)
        jobs = Worker(name, print)
        jobs.submit(lambda: None)
        assert jobs.drain(10)
        jobs.close()
    assert found == [("with", 5)]
