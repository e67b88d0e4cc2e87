"""Trains with Lightning Fabric: clips gradients, saves checkpoints, and resumes in the same run folder.

python docs/fabric_example.py outputs/fabric --steps 500
python docs/fabric_example.py outputs/fabric --steps 1000 --resume
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tbx_callbacks import TbxLoop

MAX_NORM, SAVE_EVERY = 0.5, 100


def endless(batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the batches of one epoch after the other."""
    while True:
        yield from batches


def train(folder: Path, steps: int, *, resume: bool = False, save_every: int = SAVE_EVERY) -> None:
    """Trains until `steps` steps are finished; writes the run to `folder/run`."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    torch.manual_seed(0)
    inputs = torch.randn(512, 16)
    data = TensorDataset(inputs, (inputs[:, :4].sum(1) > 0).long())
    model: Any = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer = fabric.setup(model, optimizer)
    batches = fabric.setup_dataloaders(DataLoader(data, batch_size=32, shuffle=True))

    checkpoint = folder / "last.ckpt"
    state = {"model": model, "optimizer": optimizer, "step": 0}
    if resume and checkpoint.exists():
        fabric.load(checkpoint, state)

    # Create the loop on every rank: all ranks measure, rank 0 writes.
    with TbxLoop(
        model, optimizer, "default", log_dir=folder / "run", max_grad_norm=MAX_NORM, start_step=state["step"]
    ) as loop:
        remaining = range(state["step"] + 1, steps + 1)
        for step, (x, labels) in zip(remaining, loop.track(endless(batches)), strict=False):
            loss = nn.functional.cross_entropy(model(x), labels)
            fabric.backward(loss)
            loop.before_clip()
            fabric.clip_gradients(model, optimizer, max_norm=MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=len(x))
            if step % save_every == 0 or loop.should_checkpoint:
                state["step"] = step
                fabric.save(checkpoint, state)
            if loop.should_stop:
                break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    train(options.folder, options.steps, resume=options.resume)
