"""Tests the TensorBoard writer: events, histograms and tags."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboardX.proto.summary_pb2 import HistogramProto

from tbx_callbacks import TbxLoop
from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.writers.base import MemoryWriter
from tbx_callbacks.writers.fan_out import FanOutWriter
from tbx_callbacks.writers.summary_writer import SummaryWriter
from tbx_callbacks.writers.tensorboard import LogDirError, TensorBoardWriter, summary_value
from tests.helpers.handles import left_open, resources
from tests.helpers.processes import python
from tests.helpers.runs import Run, files
from tests.helpers.writers import Spec


def test_tensorboard_writer_one_event_per_step(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    counts = HistogramCounts((1, 0, 3), 0.0, 3.0, 7.0, 20.0)
    writer.write(5, {"a": 1.0, "b": 2.0, "h": counts})
    writer.close()
    (path,) = files(tmp_path)
    events = list(LegacyEventFileLoader(str(path)).Load())
    assert [event.step for event in events] == [0, 5]
    assert events[0].file_version == "brain.Event:2"
    assert {value.tag for value in events[1].summary.value} == {"a", "b", "h"}


def test_tensorboard_writer_histogram_exact(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"h": HistogramCounts((2, 0, 3, 1), -1.0, 3.0, 4.5, 11.0)})
    writer.close()
    proto = Run(tmp_path).histograms["h"][1]
    assert (proto.min, proto.max, proto.num, proto.sum, proto.sum_squares) == (-1.0, 3.0, 6.0, 4.5, 11.0)
    assert list(proto.bucket) == [0, 2, 0, 3, 1]
    assert list(proto.bucket_limit) == [-1.0, 0.0, 1.0, 2.0, 3.0]


def test_tensorboard_writer_tags_unchanged(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"eval/F1 (macro) %": 1.0, "größe": 2.0})
    writer.close()
    assert set(Run(tmp_path).scalars) == {"eval/F1 (macro) %", "größe"}


def test_relative_folder_stays_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    writer = TensorBoardWriter("run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.write(1, {"a": 1.0})
    writer.close()
    writer.write(2, {"a": 2.0})
    writer.summary_writer.add_scalars("main", {"x": 1.0})
    writer.close()
    assert Run(tmp_path / "run").steps("a") == [1, 2]
    assert files(tmp_path / "run" / "main" / "x")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_relative_folders_beside_stay_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    memory = Spec(MemoryWriter)
    writer = FanOutWriter(TensorBoardWriter("run"), [memory], axes=["samples"])
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.write(1, {"a": 1.0, "axis:samples": 8.0})
    writer.close()
    assert Run(tmp_path / "run" / "by_samples").at("a") == {8: 1.0}
    assert memory.built[0].log_dir == str(tmp_path / "run")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_relative_folder_in_deleted_directory_is_error(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from tbx_callbacks.writers import LogDirError, TensorBoardWriter\n"
        "os.chdir(sys.argv[1])\n"
        "os.rmdir(sys.argv[1])\n"
        "try:\n"
        "    TensorBoardWriter('run')\n"
        "except LogDirError as error:\n"
        "    print(error)\n"
    )
    (tmp_path / "gone").mkdir()
    done = python("-c", code, tmp_path / "gone")
    assert "cannot write a run to 'run': [Errno 2]" in done.stdout, done.stderr


@pytest.mark.slow
def test_writer_open_error_says_remedy(tmp_path: Path) -> None:
    code = (
        "import os, resource, sys\n"
        "from tbx_callbacks.writers import LogDirError, TensorBoardWriter\n"
        "for folder, limit in ((sys.argv[1] + '\\0', None), (sys.argv[1], 3)):\n"
        "    if limit:\n"
        "        os.closerange(3, 1000)\n"
        "        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))\n"
        "    try:\n"
        "        TensorBoardWriter(folder).write(1, {'a': 1.0})\n"
        "    except LogDirError as error:\n"
        "        print(error)\n"
    )
    done = python("-c", code, tmp_path / "run")
    null, limit = done.stdout.splitlines()
    assert "embedded null byte; choose another log_dir" in null
    assert "Too many open files" in limit
    assert limit.endswith("close files, or raise the number of open files that the system allows")


NOT_SECONDS = [-1, -0.001, math.nan, math.inf, "2", True, [2], 2j]
NOT_MIB = [*NOT_SECONDS, 0, 0.0, None]


@pytest.mark.parametrize("make", [TensorBoardWriter, SummaryWriter])
@pytest.mark.parametrize(
    ("option", "value"), [*(("flush_secs", value) for value in NOT_SECONDS), *(("max_mib", value) for value in NOT_MIB)]
)
def test_writer_option_out_of_range_is_error(tmp_path: Path, make: Any, option: str, value: Any) -> None:
    rule = {"flush_secs": "a finite number of seconds, 0 or more", "max_mib": "a finite number above 0"}[option]
    remedy = {"flush_secs": "the default", "max_mib": "64 MiB"}[option]
    before = resources()
    with pytest.raises(
        ValueError, match=re.escape(f"{option} must be {rule}, got {value!r}; leave it out for {remedy}")
    ):
        make(str(tmp_path / "run"), **{option: value})
    assert not (tmp_path / "run").exists()
    assert not left_open(before)


@pytest.mark.parametrize("value", [-1, "x"])
def test_writer_option_in_yaml_is_error(tmp_path: Path, value: object) -> None:
    path = tmp_path / "set.yaml"
    path.write_text(f"metrics: [loss]\nwriters: [{{tensorboard: {{max_mib: {value}}}}}]\n")
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="max_mib must be a finite number above 0"):
        TbxLoop(model, optimizer, path, log_dir=tmp_path / "run").__enter__()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [{"flush_secs": 0}, {"flush_secs": 1e300}, {"max_mib": 1e-9}, {"max_mib": 1e12}, {"flush_secs": np.float32(1)}],
)
def test_writer_extreme_options_write(tmp_path: Path, options: dict[str, float]) -> None:
    writer = TensorBoardWriter(tmp_path, **options)  # type: ignore[arg-type]
    for step in range(1, 6):
        writer.write(step, {"a": float(step)})
        writer.flush()
    writer.close()
    assert Run(tmp_path).steps("a") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("bins", [1, 2, 14, 15, 16, 64, 255, 3000])
def test_histogram_proto_holds_every_number(bins: int) -> None:
    counts = HistogramCounts(tuple(range(bins)), low=-0.1, high=2.3, total=4.5, total_squares=6.7)
    proto = summary_value("weights/a", counts).histo
    built = HistogramProto(
        min=-0.1,
        max=2.3,
        num=sum(range(bins)),
        sum=4.5,
        sum_squares=6.7,
        bucket_limit=[-0.1 + (2.3 + 0.1) * i / bins for i in range(bins)] + [2.3],
        bucket=[0, *range(bins)],
    )
    assert len(proto.bucket) == len(proto.bucket_limit) == bins + 1
    assert proto.SerializeToString() == built.SerializeToString()


@pytest.mark.parametrize("below", ["", "run"])
def test_file_instead_of_folder_error_short(tmp_path: Path, below: str) -> None:
    (tmp_path / "logs").write_text("in the way")
    with pytest.raises(LogDirError) as raised:
        TensorBoardWriter(tmp_path / "logs" / below).write(1, {"x": 1.0})
    why = "there is a file where the folder should be; choose another log_dir or remove the file"
    assert str(raised.value) == f"cannot write a run to {str(tmp_path / 'logs' / below)!r}: {why}"
