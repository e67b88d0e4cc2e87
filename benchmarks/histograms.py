"""Measures weight histograms, from tensors to the closed event file.

Of BERT-base (201 tensors, 109.5 M floats), and with `--small` of 5,000 tensors of 768 floats. Every candidate writes
one histogram per tensor, in this process, in turns. Seconds and CPU time of all threads are the minimum over all
rounds, since other processes can only add time. `histc` is the method of wandb.watch (torch.histc with 64 bins after
min and max), written by this package's writer. `limit` reads the elements twice (`torch.aminmax`) and writes nothing:
no exact histogram with edges of its own can be faster.

    python benchmarks/histograms.py [--rounds 5] [--threads 2] [--small] [--json histograms.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import tensorboardX
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.values import Histogram
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

BINS = 64
Named = dict[str, Tensor]
Way = Callable[[Named, str], None]


def ours(tensors: Named, folder: str) -> None:
    batch, writer = StepValues(), TensorBoardWriter(folder)
    batch.add({f"weights/{name}": Histogram([tensor], bins=BINS) for name, tensor in tensors.items()})
    writer.write(1, batch.finish_local())
    writer.close()


def by_layer(tensors: Named, folder: str) -> None:
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(".".join(name.split(".")[:-1][:4]), []).append(tensor)
    batch, writer = StepValues(), TensorBoardWriter(folder)
    batch.add({f"weights/{name}": Histogram(group, bins=BINS) for name, group in groups.items()})
    writer.write(1, batch.finish_local())
    writer.close()


def tensorboardx(bins: str | int) -> Way:
    def write(tensors: Named, folder: str) -> None:
        writer = tensorboardX.SummaryWriter(folder)
        for name, tensor in tensors.items():
            writer.add_histogram(f"weights/{name}", tensor, 1, bins=bins)
        writer.close()

    return write


def histc(tensors: Named, folder: str) -> None:
    writer, values = TensorBoardWriter(folder), {}
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1)
        low, high = flat.min().item(), flat.max().item()
        counts = flat.histc(bins=BINS, min=low, max=high)
        values[f"weights/{name}"] = HistogramCounts(tuple(int(c) for c in counts.tolist()), low, high, 0.0, 0.0)
    writer.write(1, values)
    writer.close()


def limit(tensors: Named, folder: str) -> None:  # noqa: ARG001
    for _ in range(2):
        for tensor in tensors.values():
            torch.aminmax(tensor)


WAYS: dict[str, Way] = {
    "limit": limit,
    "ours": ours,
    "ours, by layer": by_layer,
    "torch.histc (wandb.watch)": histc,
    "tensorboardX, 64 bins": tensorboardx(BINS),
    'tensorboardX, "tensorflow"': tensorboardx("tensorflow"),
}
BARS = {"torch.histc (wandb.watch)": 3, "tensorboardX, 64 bins": 12, 'tensorboardX, "tensorflow"': 40}


class Peak:
    """Peak memory of the process above its initial memory, in MiB, sampled."""

    def __enter__(self) -> Peak:
        self._process, self._over = psutil.Process(), threading.Event()
        self._before = self.most = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._over.wait(0.005):
            self.most = max(self.most, self._process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.mib = (self.most - self._before) / 2**20


def same_counts(tensors: Sequence[Tensor]) -> str:
    """Compares the counts with numpy's, on the same edges."""
    moved = 0
    for tensor in tensors:
        batch = StepValues()
        batch.add({"x": Histogram([tensor], bins=BINS)})
        found = batch.finish_local()["x"]
        assert isinstance(found, HistogramCounts)
        expected, _ = np.histogram(tensor.detach().numpy().astype(np.float64), bins=np.array(found.edges))
        assert sum(found.counts) == tensor.numel()
        moved += sum(abs(a - int(b)) for a, b in zip(found.counts, expected, strict=True)) // 2
    total = sum(tensor.numel() for tensor in tensors)
    return f"{moved} of {total} elements on the other side of an edge than with numpy.histogram; totals exact"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="5,000 tensors of 768 floats instead of BERT-base")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.small:
        tensors = {f"layer.{index // 10}.{index}": torch.randn(768) for index in range(5000)}
    else:
        model = BertForSequenceClassification(BertConfig())
        tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    elements = sum(t.numel() for t in tensors.values())
    print(f"{len(tensors)} tensors, {elements / 1e6:.1f} M floats, {options.threads} threads")
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    cpu: dict[str, list[float]] = {name: [] for name in WAYS}
    memory = {}
    with tempfile.TemporaryDirectory() as folder:
        ours(tensors, f"{folder}/warm")
        for turn in range(options.rounds):
            for place, (name, way) in enumerate(WAYS.items()):
                started, used = time.perf_counter(), time.process_time()
                way(tensors, f"{folder}/{turn}-{place}")
                times[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - used)
        for place, (name, way) in enumerate(WAYS.items()):
            with Peak() as peak:  # not in a timed round: sampling takes time too
                way(tensors, f"{folder}/memory-{place}")
            memory[name] = peak.mib
    fewest, used_least = ({name: min(found) for name, found in lists.items()} for lists in (times, cpu))
    print(f"{'way':28} {'seconds':>9} {'times ours':>11} {'bar':>5} {'CPU seconds':>12} {'peak MiB':>9}")
    for name, seconds in fewest.items():
        ratio, bar = seconds / fewest["ours"], BARS.get(name, "")
        print(f"{name:28} {seconds:9.3f} {ratio:11.1f} {bar:>5} {used_least[name]:12.3f} {memory[name]:9.1f}")
    checked = same_counts(list(tensors.values()))
    print(checked)
    if options.json:
        found = {
            "seconds": fewest,
            "cpu_seconds": used_least,
            "peak_mib": memory,
            "counts": checked,
            "machine": platform.platform(),
        }
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
