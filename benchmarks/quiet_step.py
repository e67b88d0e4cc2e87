"""Measures the time of this package's entry points in a step with nothing due, under each trainer.

An entry point is a method that the trainer calls, or a hook in torch. The time of the trainer's own methods inside a
wrapped method is left out, and so is what torch needs to call a hook. A timer in each call costs some 0.2 us. Each
process trains one tiny model; the fastest process of an entry point counts, with its 5 % quantile and its median.

With `--against` the same is measured with another checkout of the package, in turns, because machines are noisy.

    python benchmarks/quiet_step.py [--steps 1000] [--rounds 3] [--against ../other-checkout] [--json quiet_step.json]
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = ("HF Trainer", "Lightning Trainer", "plain loop")
FIRST = 200  # steps in which the wiring is checked and caches fill
ENTRIES = {
    "HF Trainer": ("TbxTrainerCallback", ["on_step_begin", "on_pre_optimizer_step", "on_step_end"]),
    "Lightning Trainer": (
        "TbxLightningCallback",
        [
            "on_train_batch_start",
            "on_before_backward",
            "on_after_backward",
            "on_before_optimizer_step",
            "on_train_batch_end",
        ],
    ),
    "plain loop": ("TbxLoop", ["before_clip", "end_step"]),
}


class Timers:
    """Times calls by name, in nanoseconds."""

    def __init__(self) -> None:
        self.times: dict[str, list[int]] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function with a timer around it."""
        times, clock = self.times.setdefault(name, []), time.perf_counter_ns

        def call(*arguments: Any, **options: Any) -> Any:
            started = clock()
            try:
                return function(*arguments, **options)
            finally:
                times.append(clock() - started)

        return call

    def without_method(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the call of a wrapped method with a timer around it, which leaves out the method itself."""
        times, clock = self.times.setdefault(name, []), time.perf_counter_ns

        def call(wrapper: Any, *arguments: Any, **options: Any) -> Any:
            method, inside = wrapper._method, [0]

            def original(*args: Any, **kwargs: Any) -> Any:
                began = clock()
                try:
                    return method(*args, **kwargs)
                finally:
                    inside[0] += clock() - began

            wrapper._method, started = original, clock()
            try:
                return function(wrapper, *arguments, **options)
            finally:
                times.append(clock() - started - inside[0])
                wrapper._method = method

        return call


def measure(name: str, steps: int) -> dict[str, tuple[float, float]]:
    """Trains in this process; returns microseconds a step by entry point: the 5 % quantile and the median."""
    import torch

    import tbx_callbacks
    from benchmarks import attached
    from tbx_callbacks._model.sharding import step_hooks
    from tbx_callbacks._wiring import wiring

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    timers = Timers()
    for event in ("pre", "post"):
        register = getattr(step_hooks, f"register_optimizer_step_{event}_hook")
        timed = lambda hook, register=register, event=event: register(timers.timed(f"step {event}-hook", hook))  # noqa: E731
        setattr(step_hooks, f"register_optimizer_step_{event}_hook", timed)
    for kind in ("_Pass", "_Evaluations"):
        if hasattr(wiring, kind):
            hook: Any = getattr(wiring, kind)
            hook.__call__ = timers.timed("forward hook", hook.__call__)
    kind, methods = ENTRIES[name]
    callback = getattr(tbx_callbacks, kind)
    for method in methods:
        if method in vars(callback):
            setattr(callback, method, timers.timed(method, getattr(callback, method)))
    if name == "HF Trainer":
        attach = importlib.import_module("tbx_callbacks.integrations.huggingface.attach")
        for wrapped, method in ((attach._TrainingStep, "training_step"), (attach._Clipping, "clip_grad_norm_")):
            wrapped.__call__ = timers.without_method(method, wrapped.__call__)
    with tempfile.TemporaryDirectory() as folder:
        attached.TRAINERS[name](steps, Path(folder), "ours")
    found = {}
    for entry, times in timers.times.items():
        if len(times) >= steps // 2:  # else it is called in the first steps only
            late = times[FIRST:]
            found[entry] = (statistics.quantiles(late, n=20)[0] / 1e3, statistics.median(late) / 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of the package")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=NAMES, help=argparse.SUPPRESS)  # of a child
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.steps)))
        return
    trees = {"this one": HERE.parent, **({"the other": options.against.resolve()} if options.against else {})}
    fastest: dict[str, dict[str, dict[str, list[float]]]] = {}
    for _ in range(options.rounds):
        for name in NAMES:
            for tree, path in trees.items():
                known = fastest.setdefault(name, {}).setdefault(tree, {})
                for entry, numbers in _in_child(name, path, options.steps).items():
                    known[entry] = [min(pair) for pair in zip(numbers, known.get(entry, numbers), strict=True)]
    for name, by_tree in fastest.items():
        for tree, entries in by_tree.items():
            low, middle = (sum(numbers[index] for numbers in entries.values()) for index in (0, 1))
            print(f"{name:18} {tree:10} {low:7.1f} {middle:7.1f} us")
            for entry, numbers in entries.items():
                print(f"    {entry:40} {numbers[0]:6.1f} {numbers[1]:7.1f}")
    if options.json:
        options.json.write_text(json.dumps(fastest, indent=2))


def _in_child(name: str, tree: Path, steps: int) -> dict[str, list[float]]:
    # The package comes from the tree, and the benchmarks from here.
    start = f"import sys; sys.path[:0] = [{str(tree)!r}]; import tbx_callbacks; sys.path[:1] = [{str(HERE.parent)!r}]"
    code = f"{start}; from benchmarks.quiet_step import main; main()"
    arguments = [sys.executable, "-c", code, "--only", name, "--steps", str(steps)]
    environment = {**os.environ, "TBX_CALLBACKS_QUIET": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    numbers: dict[str, list[float]] = json.loads(ended.stdout.splitlines()[-1])
    return numbers


if __name__ == "__main__":
    main()
