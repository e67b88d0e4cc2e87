"""Measures the cost of the metrics of weights on the 11 M-parameter BERT of overhead.py.

    python benchmarks/weights.py [--points 5] [--json weights.json]

A loop with a point at every second step, in processor time, because other processes disturb the clock. `ms a step` is
the median of the steps without a point, `ms a point` the median of what the others take longer, and `at every 100` the
share of the time that this is with a point every 100 steps. `ms at first` is the first step with a point, where power
iterations begin.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import platform
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import overhead

from tbx_callbacks import TbxLoop

EVERY = 100
WAYS: dict[str, list[Any]] = {
    "nothing": [],
    "weight_norm": ["weight_norm"],
    "drift": ["drift"],
    "drift, by layer and in total": ["drift", {"drift": {"by": "total"}}],
    "spectral": ["spectral"],
}
ADAPTED: dict[str, list[Any]] = {"nothing, with LoRA": [], "lora": ["lora"], "drift, with LoRA": ["drift"]}


def adapted() -> nn.Module:
    import peft

    model = overhead.model()
    found: nn.Module = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["query", "value"]))
    return found


def measure(metrics: list[Any], model: nn.Module, points: int) -> list[float]:
    """Processor seconds of each step; each second one has a point."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    rows = overhead.rows(16)
    batch = {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}
    seconds = []
    with (
        tempfile.TemporaryDirectory() as folder,
        TbxLoop(model, optimizer, {"every": 2, "metrics": [*metrics, "learning_rate"]}, log_dir=folder) as loop,
    ):
        for _ in range(2 * points + 4):
            started = time.process_time()
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step()
            seconds.append(time.process_time() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(f"{platform.platform()}, {torch.get_num_threads()} threads")
    print(f"{'':30} {'ms a step':>9} {'ms a point':>10} {'at every 100':>12} {'ms at first':>11}")
    ways = [(name, metrics, overhead.model) for name, metrics in WAYS.items()]
    if importlib.util.find_spec("peft"):
        ways += [(name, metrics, adapted) for name, metrics in ADAPTED.items()]
    found: dict[str, dict[str, float]] = {}
    for name, metrics, make in ways:
        seconds = measure(metrics, make(), options.points)
        step = statistics.median(seconds[2::2])
        point = statistics.median(due - without for without, due in zip(seconds[2::2], seconds[3::2], strict=True))
        share = point / (EVERY * step)
        found[name] = {"step": step, "point": point, "share": share, "first": seconds[1]}
        print(f"{name:30} {step * 1e3:9.0f} {point * 1e3:10.1f} {share:12.3%} {seconds[1] * 1e3:11.0f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
