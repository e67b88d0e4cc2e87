"""Measures the cost of the metrics of weights, every 100 steps, on the 11 M-parameter BERT of overhead.py.

    python benchmarks/weights.py [--rounds 3] [--steps 200] [--json weights.json]

Each training has a point every 100 steps. `share` is the package's own measurement of its time in the training thread,
which includes publishing; `nothing` is a set with `throughput` alone. `ms a point` is the difference of the two, for a
point. Trainings run in turns; the output is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import overhead

from tbx_callbacks import TbxTrainerCallback
from tbx_callbacks.runs.reader import read_run

EVERY = 100
WAYS: dict[str, list[Any]] = {
    "nothing": [],
    "drift by layer": ["drift"],
    "drift by layer and in total": ["drift", {"drift": {"by": "total"}}],
}


def measure(metrics: list[Any], steps: int) -> tuple[float, float]:
    """Seconds a step, and the share of monitoring."""
    config = {"every": EVERY, "metrics": [*metrics, "throughput"]}
    with tempfile.TemporaryDirectory() as folder:
        overhead.train(lambda logs: [TbxTrainerCallback(config, log_dir=logs)], steps, folder, skip=0)
        scalars = read_run(f"{folder}/logs").scalars
        return float(scalars["perf/step_s"].values.mean()), float(scalars["perf/monitor_share"].values.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="a multiple of 100")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, metrics in WAYS.items():
            found[name].append(measure(metrics, options.steps))
    base = statistics.median(share for _, share in found["nothing"])
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, a point every {EVERY} steps")
    print(f"{'':30} {'s a step':>9} {'share':>8} {'ms a point':>11}")
    rows: dict[str, dict[str, float]] = {}
    for name, values in found.items():
        seconds, share = (statistics.median(column) for column in zip(*values, strict=True))
        rows[name] = {"seconds": seconds, "share": share, "ms": (share - base) * seconds * EVERY * 1e3}
        print(f"{name:30} {seconds:9.4f} {share:8.3%} {rows[name]['ms']:11.1f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
