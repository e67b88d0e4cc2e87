"""Measures the cost of the metrics of weights on the 11 M-parameter BERT of overhead.py.

    python benchmarks/weights.py [--points 5] [--json weights.json]

A loop with a point at every second step. `ms a step` is the fastest step without a point, `ms a point` the fastest call
of the metric after the first one, and `at every 100` the share of the time that this is with a point every 100 steps.
`ms at first` is the first call, where power iterations begin. All in processor time of all threads: other processes
disturb the clock more.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import overhead

from tbx_callbacks import TbxLoop, load_config

EVERY = 100
WAYS: dict[str, list[Any]] = {
    "weight_norm": ["weight_norm"],
    "drift": ["drift"],
    "drift, by layer and in total": ["drift", {"drift": {"by": "total"}}],
    "spectral": ["spectral"],
}
ADAPTED: dict[str, list[Any]] = {"lora": ["lora"], "drift, with LoRA": ["drift"]}


def adapted() -> nn.Module:
    import peft

    model = overhead.model()
    found: nn.Module = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["query", "value"]))
    return found


def measure(metrics: list[Any], model: nn.Module, points: int) -> tuple[float, list[float]]:
    """Seconds of the fastest step without a point, and of the metrics' calls at each point."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    rows = overhead.rows(16)
    batch = {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}
    config = load_config({"every": 2, "metrics": [*metrics, "learning_rate"]})
    calls = [0.0] * points
    steps = []
    with tempfile.TemporaryDirectory() as folder, TbxLoop(model, optimizer, config, log_dir=folder) as loop:
        for point in range(points):
            for is_due in (False, True):
                started, spent = time.process_time(), [0.0]
                with timed({type(item.metric) for item in config.items[: len(metrics)]}, spent):
                    model(**batch).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    loop.end_step()
                if is_due:
                    calls[point] = spent[0]
                else:
                    steps.append(time.process_time() - started)
    return min(steps), calls


@contextlib.contextmanager
def timed(classes: set[type], spent: list[float]) -> Iterator[None]:
    """Adds the seconds of the calls of metrics to `spent`."""
    calls = {cls: cls.__call__ for cls in classes}

    def wrap(call: Any) -> Any:
        def wrapped(self: Any, context: Any) -> Any:
            started = time.process_time()
            try:
                return call(self, context)
            finally:
                spent[0] += time.process_time() - started

        return wrapped

    for cls, call in calls.items():
        cls.__call__ = wrap(call)  # type: ignore[operator]
    try:
        yield
    finally:
        for cls, call in calls.items():
            cls.__call__ = call  # type: ignore[operator]


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
        step, calls = measure(metrics, make(), options.points)
        point = min(calls[1:])
        found[name] = {"step": step, "point": point, "share": point / (EVERY * step), "first": calls[0]}
        shown = f"{step * 1e3:9.0f} {point * 1e3:10.1f} {found[name]['share']:12.3%} {calls[0] * 1e3:11.0f}"
        print(f"{name:30} {shown}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
