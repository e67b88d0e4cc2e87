"""Measures the cost of recording rows: CPU time of a step with the metric, relative to one without, in one process.

A BERT of 10 M parameters (or `--small`, 0.5 M) trains in a loop on the CPU. Candidates take turns, a block of steps
each; the output is the median of the ratios of the blocks. CPU time includes the thread that writes the files.

    python benchmarks/rows.py [--rounds 9] [--steps 20] [--small]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from tbx_callbacks import TbxLoop

LENGTH, BATCH = 64, 16
SETS: dict[str, Any] = {
    "loss": {"every": 10, "metrics": ["loss"]},
    "loss, train_accuracy": {"every": 10, "metrics": ["loss", "train_accuracy"]},
    "loss, examples": {"every": 10, "metrics": ["loss", "examples"]},
    "loss, examples by source": {"every": 10, "metrics": ["loss", {"examples": {"group_by": "source"}}]},
    "loss, bad_batches": {"every": 10, "metrics": ["loss", "bad_batches"]},
}


class Candidate:
    """A model of its own that trains with one metric set."""

    def __init__(self, config: Any, folder: str, hidden: int) -> None:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_attention_heads": 4}
        self.model = BertForSequenceClassification(BertConfig(vocab_size=8000, num_hidden_layers=4, **sizes))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.loop = TbxLoop(self.model, self.optimizer, config, log_dir=folder)

    def train(self, steps: int) -> float:
        """CPU seconds of a step."""
        started = time.process_time()
        for _ in range(steps):
            ids, labels = torch.randint(1, 8000, (BATCH, LENGTH)), torch.randint(0, 2, (BATCH,))
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "source": labels}
            out = self.model(ids, batch["attention_mask"], labels=labels)
            out.loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.loop.end_step(loss=out.loss, samples=BATCH, outputs=out, labels=labels, batch=batch)
        return (time.process_time() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="steps in a block; a multiple of 10")
    parser.add_argument("--small", action="store_true", help="0.5 M parameters")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        hidden = 48 if options.small else 384
        everyone = {
            name: Candidate(one, str(Path(folder, str(n))), hidden) for n, (name, one) in enumerate(SETS.items())
        }
        for each in everyone.values():
            each.train(10)
        ratios: dict[str, list[float]] = {name: [] for name in SETS}
        for round_ in range(options.rounds):
            order = list(SETS)[round_ % len(SETS) :] + list(SETS)[: round_ % len(SETS)]
            seconds = {name: everyone[name].train(options.steps) for name in order}
            for name in SETS:
                ratios[name].append(seconds[name] / seconds["loss"])
        for name, values in ratios.items():
            print(f"{name:28s} {statistics.median(values):.4f}  ({min(values):.3f} to {max(values):.3f})")
        for each in everyone.values():
            each.loop.close()


if __name__ == "__main__":
    main()
