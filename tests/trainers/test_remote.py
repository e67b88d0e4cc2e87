"""Tests a training that logs to S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.models import trainer
from tests.helpers.s3 import download, s3_bucket

# botocore parses its files with a deprecated function of the standard library.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_bucket(monkeypatch) as client:
        yield client


def test_huggingface_run_on_s3_written(bucket: Any, tmp_path: Path) -> None:
    callback = TbxTrainerCallback("default", log_dir="s3://runs/exp1")
    trainer(tmp_path / "out", callbacks=[callback]).train()
    callback.close()
    read = download(bucket, "exp1/", tmp_path / "read")
    assert read.steps("train/loss") == read.steps("grad_norm/total") == [2, 4, 6, 8]
