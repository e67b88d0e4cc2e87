"""Measures the metric `time`: the share of a step that no part explains, and its cost, in one run for each trainer.

`other` is the unexplained share. `ratio` is the time of a step with the metric at every tenth step, relative to a run
of the same training with the loss only; runs alternate, and the ratio is that of the medians.

    python benchmarks/step_times.py [--rounds 5] [--steps 30] [--json step_times.json]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainingArguments

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tbx_callbacks.metrics.step_time import PARTS
from tbx_callbacks.runs import read_run

EVERY, BATCH, SKIP = 10, 16, 1  # steps, rows, points that pay for the start
LOSS = {"every": EVERY, "metrics": ["loss"]}
TIMED = {"every": EVERY, "metrics": ["loss", "time"]}


def model() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
    return BertForSequenceClassification(BertConfig(**sizes)).train()


def rows(number: int) -> list[dict[str, Any]]:
    made = torch.randint(1, 30_000, (number, 64), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": n % 2} for n, ids in enumerate(made)]


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def training_step(self, batch: dict[str, Any], index: int) -> Any:
        return self.net(**batch).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


def huggingface(metrics: dict[str, Any], folder: str, steps: int) -> None:
    arguments = TrainingArguments(
        folder, max_steps=steps, per_device_train_batch_size=BATCH, logging_steps=EVERY, report_to="none",
        save_strategy="no", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(model(), arguments, train_dataset=rows(512))
    trainer.remove_callback(PrinterCallback)
    TbxTrainerCallback(metrics, log_dir=f"{folder}/run").attach(trainer)
    trainer.train()


def lightning(metrics: dict[str, Any], folder: str, steps: int) -> None:
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, gradient_clip_val=1.0,
        callbacks=[TbxLightningCallback(metrics, log_dir=f"{folder}/run")],
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(rows(512), batch_size=BATCH))


def loop(metrics: dict[str, Any], folder: str, steps: int) -> None:
    net, data = model(), DataLoader(rows(steps * BATCH), batch_size=BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    with TbxLoop(net, optimizer, metrics, log_dir=f"{folder}/run", max_grad_norm=1.0) as tracked:
        for batch in tracked.track(data):
            loss = net(**batch).loss
            loss.backward()
            tracked.before_clip()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            tracked.end_step(loss=loss)


TRAINERS: dict[str, Callable[[dict[str, Any], str, int], None]] = {
    "HF Trainer, attached": huggingface,
    "Lightning Trainer": lightning,
    "plain loop with track": loop,
}


def measure(train: Callable[[dict[str, Any], str, int], None], rounds: int, steps: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    others: list[float] = []
    for _ in range(rounds):
        for name, metrics in (("without", LOSS), ("with", TIMED)):
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                train(metrics, folder, steps)
                seconds[name].append(time.perf_counter() - started)
                if name == "with":
                    scalars = read_run(f"{folder}/run").scalars
                    means = {tag: scalars[tag].values[SKIP:].mean() for tag in PARTS if tag in scalars}
                    others.append(means["time/other_s"] / sum(means.values()))
    ratio = statistics.median(seconds["with"]) / statistics.median(seconds["without"])
    return {"other": statistics.median(others), "largest": max(others), "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    results = {}
    print(f"{'':24}{'other, median':>16}{'other, largest':>16}{'ratio':>8}")
    for name, train in TRAINERS.items():
        found = results[name] = measure(train, options.rounds, options.steps)
        print(f"{name:24}{found['other']:16.2%}{found['largest']:16.2%}{found['ratio']:8.3f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
