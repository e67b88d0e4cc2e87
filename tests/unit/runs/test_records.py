"""Tests the records of local event files: complete ones, damaged ones, and what is no file."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboardX.record_writer import masked_crc32c

from tbx_callbacks.runs.records import RECORD_BYTES, local_records, masked_crc, why_unreadable
from tests.helpers.hostile_events import record, write_records


def test_masked_crc_equals_that_of_tensorboardx() -> None:
    dice = random.Random(0)
    for size in (0, 1, 8, 1000):
        data = dice.randbytes(size)
        assert masked_crc(data) == masked_crc32c(data)


def test_local_records_yield_each_record(tmp_path: Path) -> None:
    written = [b"", b"a", b"b" * 5_000_000]
    path = write_records(tmp_path / "x", *map(record, written))
    assert list(local_records(str(path))) == written
    assert path.stat().st_size == sum(map(len, written)) + 3 * RECORD_BYTES


@pytest.mark.parametrize("seed", range(60))
def test_local_records_equal_those_of_tensorboard(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    data = bytearray(b"".join(record(dice.randbytes(dice.randrange(40))) for _ in range(20)))
    for _ in range(dice.randrange(3)):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path = write_records(tmp_path / "x", bytes(data[: dice.randrange(len(data))]))
    assert list(local_records(str(path))) == list(RawEventFileLoader(str(path)).Load())


@pytest.mark.parametrize("length", [2**60, 2**63, 2**64 - 1, 2**31, 100, 1])
def test_local_records_length_beyond_file_takes_no_memory(tmp_path: Path, length: int) -> None:
    header = struct.pack("<Q", length)
    cut = header + struct.pack("<I", masked_crc32c(header)) + b"abc"
    path = write_records(tmp_path / "x", record(b"first"), cut)
    tracemalloc.start()
    assert list(local_records(str(path))) == [b"first"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_local_records_growing_file_read_on(tmp_path: Path) -> None:
    path = write_records(tmp_path / "x", record(b"first"))
    records = local_records(str(path))
    assert next(records) == b"first"
    with path.open("ab") as file:
        file.write(record(b"second" * 1000) + record(b"third")[:-1])
    assert list(records) == [b"second" * 1000]


def test_local_records_shrunk_file_ends(tmp_path: Path) -> None:
    path = write_records(tmp_path / "x", *[record(b"a" * 3_000_000)] * 3)
    records = local_records(str(path))
    next(records)
    os.truncate(path, 10)
    assert list(records) == []


def test_local_records_refuse_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for ever
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "to_pipe").symlink_to("pipe")
    reasons = {
        "pipe": "it is a pipe, a socket or a device, which is not opened",
        "to_pipe": "it is a pipe, a socket or a device, which is not opened",
        "folder": "it is a folder",
        "link": "it is a link to nothing",
        "circle": "Too many levels of symbolic links",
        "gone": "No such file or directory",
    }
    for name, reason in reasons.items():
        path = str(tmp_path / name)
        with pytest.raises(OSError, match=r".") as raised:
            list(local_records(path))
        assert why_unreadable(path, raised.value) == reason
