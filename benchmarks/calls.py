"""Counts the calls of one step: functions of this package, files, and crossings between its packages.

A crossing is a call whose nearest caller in this package belongs to another of its packages. A due step is one at
which the trainer logs and no histogram is due; in a quiet step nothing is due. The model is a BERT with 201 parameters
in the attached Hugging Face Trainer, on one process. Counts are exact and the same on every machine.

    python benchmarks/calls.py [--sets minimal default full] [--ranking 15] [--json calls.json]
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import tbx_callbacks
from tbx_callbacks import TbxTrainerCallback

ROOT = str(Path(tbx_callbacks.__file__).parent)
EVERY, QUIET, DUE = 10, 28, 30
"""Logging interval, a step without a due metric, and one with the metrics of the trainer's own cadence."""


class CallCounter:
    """Counts this package's Python calls in the training thread between `start` and `stop`."""

    def __init__(self) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self.crossings: collections.Counter[tuple[str, str]] = collections.Counter()

    def start(self) -> None:
        """Begins to count."""
        sys.setprofile(self._on_event)

    def stop(self) -> None:
        """Ends counting."""
        sys.setprofile(None)

    def summary(self) -> dict[str, Any]:
        """Returns the counts."""
        files = {name.partition(":")[0] for name in self.calls}
        return {"calls": self.calls.total(), "files": len(files), "crossings": self.crossings.total()}

    def _on_event(self, frame: FrameType, event: str, argument: object) -> None:
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(ROOT):
            return
        self.calls[f"{path[len(ROOT) + 1 :]}:{frame.f_code.co_qualname}"] += 1
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(ROOT):
            caller = caller.f_back
        pair = (_package(caller.f_code.co_filename) if caller is not None else "the trainer", _package(path))
        if pair[0] != pair[1]:
            self.crossings[pair] += 1


class CountOneStep(TrainerCallback):
    """Counts one step, from the event before its first micro-batch to that before the next step."""

    def __init__(self, step: int, counter: CallCounter) -> None:
        self._step, self._counter = step, counter

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self._step:
            self._counter.start()
        elif state.global_step == self._step:
            self._counter.stop()


def count(config: str, step: int) -> CallCounter:
    """Trains past a step and counts its calls."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=64, hidden_size=16, num_hidden_layers=12, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16,
        )
    )  # fmt: skip
    data = [
        {"input_ids": torch.randint(0, 64, (8,)), "attention_mask": torch.ones(8, dtype=torch.int64), "labels": i % 2}
        for i in range(4)
    ]
    counter = CallCounter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=step + 1, per_device_train_batch_size=2, logging_steps=EVERY, save_strategy="no",
            report_to=[], use_cpu=True,
        )  # fmt: skip
        callback = TbxTrainerCallback(config, log_dir=str(Path(folder) / "run"))
        # First in the list: its event of the step begin precedes that of the measured callback.
        trainer = Trainer(model, arguments, train_dataset=data, callbacks=[CountOneStep(step, counter)])
        for default in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(default)
        callback.attach(trainer)
        trainer.train()
    return counter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["minimal", "default", "full"])
    parser.add_argument("--ranking", type=int, default=0, help="print this many of the most called functions")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    results: dict[str, Any] = {}
    print(f"{'set':10} {'step':7} {'calls':>7} {'files':>6} {'crossings':>10}")
    for config in options.sets:
        for kind, step in (("due", DUE), ("quiet", QUIET)):
            counter = count(config, step)
            summary = results[f"{config}, {kind}"] = counter.summary()
            print(f"{config:10} {kind:7} {summary['calls']:7} {summary['files']:6} {summary['crossings']:10}")
            for name, number in counter.calls.most_common(options.ranking):
                print(f"    {number:6} {name}")
            for pair, number in counter.crossings.most_common(options.ranking):
                print(f"    {number:6} {pair[0]} -> {pair[1]}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def _package(path: str) -> str:
    return path[len(ROOT) + 1 :].partition("/")[0].removesuffix(".py")


if __name__ == "__main__":
    main()
