"""Measures the overhead: step time of the HF Trainer on an 11 M-parameter BERT, relative to a run without a callback.

Heavy: histograms of weights and gradients and norms, every 10 steps, for every candidate at the same interval. Sets:
the bundled sets at their own cadence (histograms every 100 steps, or 50). Budget: the heavy metrics with
`overhead_budget: 0.01`, timed after the intervals are chosen, and the monitoring share before and after.

`share` is the package's own measurement of its thread time (`perf/monitor_share`), which varies less than a difference
between runs. Candidates run in turns, starting with another one in each round. A round gives a ratio to its own run
without a callback. The output is the median of these ratios, and all of them.

    python benchmarks/overhead.py [--rounds 5] [--steps 60] [--json overhead.json] [--only heavy|sets|budget]

wandb is measured if it is installed (pip install wandb), offline.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorboardX
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback

from tbx_callbacks import TbxTrainerCallback
from tbx_callbacks.runs.reader import read_run

EVERY = 10
HEAVY: dict[str, Any] = {
    "every": EVERY,
    "metrics": [
        "loss",
        {"weight_histogram": {"by": "layer"}},
        {"grad_histogram": {"by": "layer"}},
        {"weight_norm": {"by": "parameter"}},
        {"grad_norm": {"by": "parameter"}},
        "throughput",
    ],
}


class Clock(TrainerCallback):
    """Seconds of the steps after the first ones."""

    def __init__(self, skip: int) -> None:
        self.skip, self.started, self.seconds = skip, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.skip:
            self.started = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.started


class Naive(TrainerCallback):
    """The usual hand-written callback: tensorboardX's histogram and a norm of every parameter and gradient."""

    def __init__(self, folder: str) -> None:
        self.writer = tensorboardX.SummaryWriter(folder)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        step = state.global_step + 1
        if step % EVERY == 0:
            for name, parameter in model.named_parameters():
                self.writer.add_histogram(f"weights/{name}", parameter, step)
                self.writer.add_histogram(f"grads/{name}", parameter.grad, step)
                self.writer.add_scalar(f"weight_norm/{name}", parameter.norm().item(), step)
                self.writer.add_scalar(f"grad_norm/{name}", parameter.grad.norm().item(), step)


class ParameterMonitor(TrainerCallback):
    """The method of torchtnt's TensorBoardParameterMonitor: weight histograms with torch's writer."""

    def __init__(self, folder: str) -> None:
        self.writer = SummaryWriter(folder)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        step = state.global_step + 1
        if step % EVERY == 0:
            for name, parameter in model.named_parameters():
                self.writer.add_histogram(f"parameters/{name}", parameter, step)


class WandbWatch(TrainerCallback):
    """Offline wandb.watch(log="all"), with a commit at the same interval."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        import wandb

        self.run = wandb.init(mode="offline", dir=args.output_dir, settings=wandb.Settings(silent=True))
        self.run.watch(model, log="all", log_freq=EVERY)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.run.log({"step": state.global_step})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.run.finish()


Make = Callable[[str], list[Any]]
BARE: dict[str, Make] = {"nothing": lambda _: []}
PEERS: dict[str, Make] = {
    "ours, heavy": lambda folder: [TbxTrainerCallback(HEAVY, log_dir=folder)],
    "HF TensorBoardCallback (scalars only)": lambda folder: [TensorBoardCallback(SummaryWriter(folder))],
    "naive tensorboardX callback": lambda folder: [Naive(folder)],
    "torchtnt's idea (weights only)": lambda folder: [ParameterMonitor(folder)],
}
if importlib.util.find_spec("wandb"):
    PEERS['wandb.watch(log="all")'] = lambda _: [WandbWatch()]
SETS: dict[str, Make] = {
    name: lambda folder, name=name: [TbxTrainerCallback(name, log_dir=folder)]  # type: ignore[misc]
    for name in ("minimal", "default", "finetune", "full")
}
BUDGET = 0.01
SETTLING = 6 * EVERY  # three points to measure each metric's cost, and as many steps again to apply the decision
WITHIN: dict[str, Make] = {
    "ours, heavy": lambda folder: [TbxTrainerCallback(HEAVY, log_dir=folder)],
    f"ours, heavy, overhead_budget: {BUDGET}": lambda folder: [
        TbxTrainerCallback({**HEAVY, "overhead_budget": BUDGET}, log_dir=folder)
    ],
}
OURS = {*SETS, *WITHIN}
BARS = {"ours, heavy": 1.06, "default": 1.01, "minimal": 1.003}


def model() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    return BertForSequenceClassification(BertConfig(**sizes))


def rows(number: int) -> list[dict[str, Any]]:
    made = torch.randint(1, 30_000, (number, 64))
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": n % 2} for n, ids in enumerate(made)]


def train(make: Make, steps: int, folder: str, skip: int = EVERY) -> float:
    """Mean seconds per step after the skipped ones, including due steps."""
    clock = Clock(skip)
    callbacks = make(f"{folder}/logs")
    args = TrainingArguments(
        folder,
        max_steps=steps + skip,
        per_device_train_batch_size=16,
        logging_steps=EVERY,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model(), args, train_dataset=rows(512), callbacks=[clock, *callbacks])
    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        if isinstance(callback, TbxTrainerCallback):
            callback.attach(trainer)
    trainer.train()
    return clock.seconds / steps


def compare(
    ways: dict[str, Make],
    rounds: int,
    steps: int,
    skip: int = EVERY,
    seen: Callable[[str, str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Times the candidates in turns; `seen` is called with each run's name and folder."""
    times: dict[str, list[float]] = {name: [] for name in {**BARE, **ways}}
    own: dict[str, list[float]] = {name: [] for name in times}
    order = list({**BARE, **ways}.items())
    for _ in range(rounds):
        for name, make in order:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # peers may still be writing
                times[name].append(train(make, steps, folder, skip))
                share = read_run(f"{folder}/logs").scalars.get("perf/monitor_share") if name in OURS else None
                own[name].extend([] if share is None else share.values[share.steps > skip].tolist())
                if seen is not None:
                    seen(name, f"{folder}/logs")
        order.append(order.pop(0))  # the position in a round affects the result
    bare = times["nothing"]
    print(f"{'':40} {'s a step':>9} {'ratio':>7} {'bar':>6} {'share':>7}   ratios")
    found: dict[str, dict[str, Any]] = {}
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, bare, strict=True)]
        found[name] = {"seconds": statistics.median(seconds), "ratio": statistics.median(ratios), "ratios": ratios}
        if own[name]:
            found[name]["share"] = statistics.mean(own[name])
        share = f"{found[name]['share']:.2%}" if own[name] else ""
        shown = " ".join(f"{ratio:.3f}" for ratio in ratios)
        line = f"{name:40} {found[name]['seconds']:9.4f} {found[name]['ratio']:7.3f} {BARS.get(name, ''):>6} {share:>7}"
        print(f"{line}   {shown}")
    return found


def within(rounds: int, steps: int) -> dict[str, Any]:
    """Measures a budget's effect: monitoring share before its first and after its last decision, and the intervals."""
    shares: dict[str, list[tuple[float, float]]] = {name: [] for name in WITHIN}
    chosen: list[str] = []

    def seen(name: str, folder: str) -> None:
        if name in WITHIN:
            run = read_run(folder)
            share, said = run.scalars["perf/monitor_share"], run.texts.get("overhead_budget")
            first, last = (said.steps[0], said.steps[-1]) if said else (SETTLING, SETTLING)
            before, after = share.values[share.steps <= first], share.values[share.steps > last]
            shares[name].append((float(before.mean()), float(after.mean())))
            chosen.append(said.values[-1] if said else "within the budget")

    found = compare(WITHIN, rounds, steps, SETTLING, seen)
    for name, of_rounds in shares.items():
        before, after = (statistics.median(values) for values in zip(*of_rounds, strict=True))
        found[name] |= {"share_before": before, "share_after": after}
        print(f"{name:40} {before:7.2%} of the time before step {SETTLING // 2} or so, {after:.2%} after")
    found[f"ours, heavy, overhead_budget: {BUDGET}"]["chosen"] = chosen[-1]
    print(f"chosen in the last round: {chosen[-1]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="steps measured in the heavy runs; a multiple of 10")
    parser.add_argument("--set-steps", type=int, default=100, help="steps measured in the runs of the sets")
    parser.add_argument("--budget-steps", type=int, default=100, help="steps measured within the budget")
    parser.add_argument("--only", choices=["heavy", "sets", "budget"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["WANDB_SILENT"] = "true"
    size = sum(parameter.numel() for parameter in model().parameters())
    print(f"{size / 1e6:.1f} M parameters, batches of 16 x 64 tokens, {torch.get_num_threads()} threads")
    found: dict[str, Any] = {"machine": platform.platform(), "threads": torch.get_num_threads()}
    if options.only in (None, "heavy"):
        found["heavy"] = compare(PEERS, options.rounds, options.steps)
    if options.only in (None, "sets"):
        found["sets"] = compare(SETS, options.rounds, options.set_steps)
    if options.only in (None, "budget"):
        found["budget"] = within(options.rounds, options.budget_steps)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
