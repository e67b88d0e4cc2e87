"""Tests runs in remote stores: in memory, and on a real HTTP server that implements S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tbx_callbacks.runs import find_runs, read_run
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.processes import python
from tests.helpers.s3 import download, s3_bucket
from tests.helpers.waiting import wait_until

# botocore parses its files with a deprecated function of the standard library.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_bucket(monkeypatch) as client:
        yield client


def test_remote_run_in_memory_read() -> None:
    writer = TensorBoardWriter("memory://runs/exp1/", flush_secs=0.0)
    writer.write(1, {"train/loss": 1.0})
    writer.flush()
    first = fsspec.filesystem("memory").cat("memory://runs/exp1/*")
    writer.write(2, {"train/loss": 0.5})
    writer.close()
    last = fsspec.filesystem("memory").cat("memory://runs/exp1/*")
    assert len(first) == 1
    assert all(last.pop(path).startswith(data) for path, data in first.items())  # each upload has the whole file
    assert not last
    assert find_runs("memory://runs") == {"exp1": "memory://runs/exp1"}
    assert read_run("memory://runs/exp1").scalars["train/loss"].values.tolist() == [1.0, 0.5]


def test_remote_run_first_event_uploaded_at_once() -> None:
    writer = TensorBoardWriter("memory://first/run", flush_secs=3600)
    writer.write(1, {"a": 1.0})
    store = fsspec.filesystem("memory")
    wait_until(lambda: store.glob("memory://first/run/*"))
    assert read_run("memory://first/run").scalars["a"].values.tolist() == [1.0]
    writer.close()


@pytest.mark.slow
def test_local_run_does_not_import_fsspec(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tbx_callbacks.writers import TensorBoardWriter\n"
        "for folder in (sys.argv[1], 'memory://run'):\n"
        "    writer = TensorBoardWriter(folder)\n"
        "    writer.write(1, {'a': 1.0})\n"
        "    writer.close()\n"
        "    print('fsspec' in sys.modules)"
    )
    assert python("-c", code, tmp_path, check=True).stdout.split() == ["False", "True"]


@pytest.mark.slow
def test_s3_process_ends_without_close_uploads_all(bucket: Any, tmp_path: Path) -> None:
    code = (
        "from tbx_callbacks.writers import TensorBoardWriter\n"
        "writer = TensorBoardWriter('s3://runs/exp3', flush_secs=60)\n"
        "writer.write(1, {'a': 1.0})\n"
        "writer.flush()\n"
        "writer.write(2, {'a': 2.0})\n"
        "raise SystemExit(3)"
    )
    done = python("-c", code)
    assert done.returncode == 3, done.stderr
    assert "are lost" not in done.stderr
    assert download(bucket, "exp3/", tmp_path / "read").steps("a") == [1, 2]


def test_s3_run_read_from_bucket(bucket: Any) -> None:
    writer = TensorBoardWriter("s3://runs/all/exp1")
    for step in (1, 2):
        writer.write(step, {"train/loss": 1 / step})
    writer.close()
    # TensorBoard reads S3_ENDPOINT on import, so it runs in a new process.
    code = (
        "from tbx_callbacks.runs.reader import find_runs, read_run\n"
        "for name, folder in find_runs('s3://runs/all').items():\n"
        "    print(name, folder, read_run(folder).scalars['train/loss'].values.tolist())"
    )
    done = python("-c", code)
    assert done.stdout.split("\n")[0] == "exp1 s3://runs/all/exp1 [1.0, 0.5]", done.stderr


def test_s3_failing_upload_retried(bucket: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = TensorBoardWriter("s3://later/exp2", flush_secs=0.05)
    for step in range(1, 6):
        writer.write(step, {"a": float(step)})
    wait_until(lambda: "training continues" in caplog.text)
    assert "bucket does not exist" in caplog.text
    bucket.create_bucket(Bucket="later")
    wait_until(lambda: "works again" in caplog.text)
    writer.close()
    assert "are lost" not in caplog.text
    assert download(bucket, "exp2/", tmp_path / "read", bucket="later").steps("a") == [1, 2, 3, 4, 5]
