"""Tests runs on S3 against a real HTTP server that implements S3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.processes import python
from tests.helpers.runs import Run
from tests.helpers.s3 import s3_bucket

# botocore parses its files with a deprecated function of the standard library.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_bucket(monkeypatch) as client:
        yield client


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
    deadline = time.monotonic() + 30
    while "training continues" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "NoSuchBucket" in caplog.text
    bucket.create_bucket(Bucket="later")
    while "works again" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    writer.close()
    assert "are lost" not in caplog.text
    (item,) = bucket.list_objects_v2(Bucket="later")["Contents"]
    (tmp_path / "read").mkdir()
    bucket.download_file("later", item["Key"], str(tmp_path / "read" / "events.out.tfevents.1"))
    assert Run(tmp_path / "read").steps("a") == [1, 2, 3, 4, 5]
