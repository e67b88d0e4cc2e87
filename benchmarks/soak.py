"""Tests a long run through the real writer: memory, completeness, size. Run: python benchmarks/soak.py [STEPS]

200,000 steps of 20 scalars, and every 100 steps 15 histograms of 64 bins.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

WARM_UP = 5_000


def values(step: int) -> dict[str, float | HistogramCounts]:
    made: dict[str, float | HistogramCounts] = {f"scalar/{place}": float(step + place) for place in range(20)}
    if step % 100 == 0:
        counts = tuple((step + place) % 97 for place in range(64))
        made.update({f"weights/layer.{layer}": HistogramCounts(counts, -1.0, 1.0, 0.5, 2.0) for layer in range(15)})
    return made


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        writer = TensorBoardWriter(folder)
        start, settled, peak = time.perf_counter(), 0, 0
        for step in range(1, steps + 1):
            writer.write(step, values(step))
            if step == WARM_UP:
                settled = process.memory_info().rss
            if step % 1000 == 0:
                peak = max(peak, process.memory_info().rss)
        writer.close()
        seconds = time.perf_counter() - start
        (path,) = Path(folder).glob("*tfevents*")
        size = path.stat().st_size
        reader = EventAccumulator(folder, size_guidance={"scalars": 0, "histograms": 0})
        reader.Reload()
        complete = [event.step for event in reader.Scalars("scalar/7")] == list(range(1, steps + 1))
        exact = all(event.value == event.step + 19 for event in reader.Scalars("scalar/19"))
        histograms = len(reader.Histograms("weights/layer.14")) == steps // 100
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "steps": steps,
        "seconds": round(seconds, 1),
        "microseconds_a_step": round(seconds / steps * 1e6, 1),
        "growth_after_warm_up_mib": round((peak - settled) / 2**20, 1),
        "file_mib": round(size / 2**20, 1),
        "complete": complete and exact and histograms,
    }
    for name, value in result.items():
        print(f"{name:>26}  {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
