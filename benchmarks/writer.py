"""Measures writing scalars: one event per step against tensorboardX's add_scalar. Run: python benchmarks/writer.py

Both write 200 scalars per step, to the closed file, in turns; the ratio is that of the medians.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time

import tensorboardX

from tbx_callbacks.writers.tensorboard import TensorBoardWriter

SCALARS, STEPS, ROUNDS = 200, 20, 7
VALUES = {f"family/layer.{place}": float(place) for place in range(SCALARS)}


def ours(folder: str) -> float:
    writer = TensorBoardWriter(folder)
    start = time.perf_counter()
    for step in range(1, STEPS + 1):
        writer.write(step, VALUES)
    writer.close()
    return time.perf_counter() - start


def theirs(folder: str) -> float:
    writer = tensorboardX.SummaryWriter(folder)
    start = time.perf_counter()
    for step in range(1, STEPS + 1):
        for tag, value in VALUES.items():
            writer.add_scalar(tag, value, step)
    writer.close()
    return time.perf_counter() - start


def training_thread(folder: str) -> float:
    writer = TensorBoardWriter(folder)
    times = []
    for step in range(1, 200):
        start = time.perf_counter()
        writer.write(step, VALUES)
        times.append(time.perf_counter() - start)
    writer.close()
    return statistics.median(times)


def main() -> None:
    ours_times, theirs_times = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            ours_times.append(ours(f"{folder}/ours"))
            theirs_times.append(theirs(f"{folder}/theirs"))
    with tempfile.TemporaryDirectory() as folder:
        one_step = training_thread(folder)
    per_value = [statistics.median(times) / STEPS / SCALARS * 1e6 for times in (ours_times, theirs_times)]
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "tensorboardX": tensorboardX.__version__,
        "ours_us_per_scalar": round(per_value[0], 2),
        "add_scalar_us_per_scalar": round(per_value[1], 2),
        "times_faster": round(per_value[1] / per_value[0], 1),
        "training_thread_us_per_step_of_200": round(one_step * 1e6, 1),
    }
    for name, value in result.items():
        print(f"{name:>36}  {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
