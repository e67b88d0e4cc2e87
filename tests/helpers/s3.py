"""Starts a real HTTP server that implements S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import Run


@contextmanager
def s3_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server with the bucket `runs`; skips the test without s3fs and moto."""
    s3fs = pytest.importorskip("s3fs")
    boto3 = pytest.importorskip("boto3")
    moto_server = pytest.importorskip("moto.server")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ENDPOINT_URL", "S3_ENDPOINT"):  # s3fs reads the former, TensorBoard the latter
        monkeypatch.setenv(name, f"http://localhost:{port}")
    s3fs.S3FileSystem.clear_instance_cache()  # stores of an earlier server
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="runs")
    try:
        yield client
    finally:
        server.stop()


def download(client: Any, prefix: str, folder: Path, *, bucket: str = "runs") -> Run:
    folder.mkdir()
    for item in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        client.download_file(bucket, item["Key"], str(folder / Path(item["Key"]).name))
    return Run(folder)
