"""Measures the cost of an attached callback on steps with nothing due, under each trainer.

The same tiny model is trained in turns without a callback, with an empty one (the trainer's own cost for any callback)
and with this package's. The cost is the difference of undisturbed steps. The calls of this package's functions in such
a step are also counted, because a busy machine does not affect the count. The model is tiny so that a few microseconds
are visible; the result does not depend on its size.

    python benchmarks/attached.py [--steps 2000] [--rounds 5] [--json attached.json]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

import tbx_callbacks
from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback

PACKAGE = str(Path(tbx_callbacks.__file__).parent)
NEVER = 10**9
SET = {"extends": "default", "every": NEVER}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.linear(input_ids * attention_mask)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def rows(number: int) -> list[dict[str, Tensor]]:
    row = {"input_ids": torch.randn(8), "attention_mask": torch.ones(8, dtype=torch.int64), "labels": torch.tensor(1)}
    return [row] * number


class Clock:
    """Times of the steps, taken when a trainer fetches the next batch."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.times.append(time.perf_counter())
        return {key: torch.stack([row[key] for row in batch]) for key in batch[0]}

    def step(self) -> float:
        """Microseconds of an undisturbed step: the 10 % quantile."""
        steps = [b - a for a, b in zip(self.times[100:], self.times[101:], strict=False)]
        return 1e6 * statistics.quantiles(steps, n=10)[0]


WAYS = ("nothing", "empty", "ours")


def hf(steps: int, folder: Path, way: str) -> float:
    clock, callback = Clock(), TbxTrainerCallback(SET)
    args = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        logging_steps=NEVER,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    callbacks: dict[str, list[TrainerCallback]] = {"nothing": [], "empty": [TrainerCallback()], "ours": [callback]}
    trainer = Trainer(Net(), args, clock, rows(2 * steps), callbacks=callbacks[way])
    if way == "ours":
        callback.attach(trainer)
    trainer.train()
    callback.close()
    return clock.step()


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.net(**batch)["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


def with_lightning(steps: int, folder: Path, way: str) -> float:
    clock, callback = Clock(), TbxLightningCallback(SET)
    callbacks: dict[str, list[pl.Callback]] = {"nothing": [], "empty": [pl.Callback()], "ours": [callback]}
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=folder,
        callbacks=callbacks[way],
        log_every_n_steps=NEVER,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Module(), DataLoader(rows(2 * steps), batch_size=2, collate_fn=clock))
    callback.close()
    return clock.step()


def loop(steps: int, folder: Path, way: str) -> float:
    clock, model = Clock(), Net()
    optimizer = torch.optim.AdamW(model.parameters())
    watch = TbxLoop(model, optimizer, SET, log_dir=folder, log_every=NEVER) if way == "ours" else None
    for batch in DataLoader(rows(2 * steps), batch_size=2, collate_fn=clock):
        loss = model(**batch)["loss"]
        loss.backward()
        if watch is not None:
            watch.before_clip()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if watch is not None:
            watch.end_step(loss=loss, samples=2)
    if watch is not None:
        watch.close()
    return clock.step()


TRAINERS: dict[str, Callable[[int, Path, str], float]] = {
    "HF Trainer": hf,
    "Lightning Trainer": with_lightning,
    "plain loop": loop,
}


def calls(name: str, few: int = 110, more: int = 190) -> float:
    """Counts calls of this package's functions in a step with nothing due, in the training thread.

    Between `few` and `more` steps no metric of the set is due; its histograms are due every 100 steps.
    """

    def count(steps: int) -> int:
        found = 0

        def see(frame: FrameType, event: str, *_: object) -> None:
            nonlocal found
            found += event == "call" and PACKAGE in frame.f_code.co_filename

        with tempfile.TemporaryDirectory() as folder:
            sys.setprofile(see)
            try:
                TRAINERS[name](steps, Path(folder), "ours")
            finally:
                sys.setprofile(None)
        return found

    return (count(more) - count(few)) / (more - few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    print(f"{'us a step':18} {'bare':>8} {'empty callback':>16} {'ours':>8} {'of which ours':>15} {'calls':>6}")
    for name, train in TRAINERS.items():
        rounds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                with tempfile.TemporaryDirectory() as folder:
                    rounds[way].append(train(options.steps, Path(folder), way))
        bare, empty, ours = (min(rounds[way]) for way in WAYS)
        found[name] = {"bare": bare, "empty": empty - bare, "ours": ours - bare, "of_which_ours": ours - empty}
        found[name]["calls"] = calls(name)
        shown = f"{bare:8.1f} {empty - bare:16.1f} {ours - bare:8.1f} {ours - empty:15.1f} {found[name]['calls']:6.0f}"
        print(f"{name:18} {shown}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
