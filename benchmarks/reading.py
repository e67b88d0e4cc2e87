"""Measures the time and memory of reading a large run. Run: python benchmarks/reading.py [--scalars N]

The same values in two layouts: one event per scalar, as most writers do, and one event per step, as this package does.
Readers: ours; TensorBoard's EventAccumulator, which keeps all points; tbparse, if it is installed
(pip install tbparse), which returns a pandas frame. Each reads in a process of its own, without the imports.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboardX.record_writer import RecordWriter

from tbx_callbacks.runs.reader import read_run

TAGS = 50
BUCKETS = 64


def write(folder: Path, *, scalars: int, histograms: int, together: bool) -> None:
    writer = RecordWriter(str(folder / "events.out.tfevents.1.large"))

    def event(step: int, values: list[Summary.Value]) -> None:
        writer.write(Event(step=step, wall_time=1.7e9 + step, summary=Summary(value=values)).SerializeToString())

    for step in range(scalars // TAGS):
        values = [Summary.Value(tag=f"grad_norm/layer.{n}", simple_value=step / (n + 1)) for n in range(TAGS)]
        if together:
            event(step, values)
        else:
            for value in values:
                event(step, [value])
    edges = np.linspace(-1, 1, BUCKETS).tolist()
    counts = np.arange(1.0, BUCKETS + 1).tolist()
    proto = HistogramProto(min=-1.1, max=1, num=sum(counts), sum=1, sum_squares=1, bucket_limit=edges, bucket=counts)
    for n in range(histograms):
        event(n // TAGS, [Summary.Value(tag=f"weights/layer.{n % TAGS}", histo=proto)])
    writer.close()


def ours(folder: str) -> tuple[int, int]:
    run = read_run(folder)
    return sum(map(len, run.scalars.values())), sum(len(histograms.steps) for histograms in run.histograms.values())


def tensorboard(folder: str) -> tuple[int, int]:
    kept = EventAccumulator(folder, size_guidance={"scalars": 0, "histograms": 0, "tensors": 0}).Reload()
    scalars = sum(len(kept.Scalars(tag)) for tag in kept.Tags()["scalars"])
    return scalars, sum(len(kept.Histograms(tag)) for tag in kept.Tags()["histograms"])


def tbparse(folder: str) -> tuple[int, int]:
    from tbparse import SummaryReader

    reader = SummaryReader(folder)
    return len(reader.scalars), len(reader.histograms)


READERS: dict[str, Callable[[str], tuple[int, int]]] = {"ours": ours, "TensorBoard": tensorboard}
if importlib.util.find_spec("tbparse"):
    READERS["tbparse"] = tbparse


def read(folder: str, name: str) -> None:
    """Reads the run in this process and prints time and memory."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    scalars, histograms = READERS[name](folder)
    seconds = time.perf_counter() - start
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(json.dumps({"scalars": scalars, "histograms": histograms, "seconds": seconds, "mib": more}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scalars", type=int, default=1_000_000)
    parser.add_argument("--histograms", type=int, default=5_000)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        read(*given.read)
        return
    rows = []
    print(
        f"{'shape':>18} {'file, MiB':>10} {'reader':>12} {'scalars':>10} {'histograms':>11} {'seconds':>8}"
        f" {'more memory, MiB':>17}"
    )
    for shape, together in (("an event a scalar", False), ("an event a step", True)):
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), scalars=given.scalars, histograms=given.histograms, together=together)
            size = sum(path.stat().st_size for path in Path(name).iterdir()) / 2**20
            for reader in READERS:
                command = [sys.executable, __file__, "--read", name, reader]
                row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(
                    f"{shape:>18} {size:>10.1f} {reader:>12} {row['scalars']:>10,} {row['histograms']:>11,}"
                    f" {row['seconds']:>8.1f} {row['mib']:>17.0f}",
                    flush=True,
                )
                rows.append({"shape": shape, "file_mib": size, "reader": reader, **row})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
