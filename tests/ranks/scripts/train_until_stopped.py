"""Trains until a rule stops the ranks or saves; the tests start one process a rank."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLightningCallback, TbxLoop, TbxTrainerCallback
from tbx_callbacks.rules import RULES, Finding
from tbx_callbacks.rules.nonfinite import NonFinite
from tbx_callbacks.rules.required_series import NONFINITE, Need
from tbx_callbacks.runs.series import Run
from tests.helpers.data import collate, rows
from tests.helpers.models import bert
from tests.helpers.models import trainer as hf_trainer

BAD, STEPS = 5, 16
HISTOGRAMS = {"weight_histogram": {"by": "layer", "every": 2}}


@dataclass(frozen=True)
class SlowNonFinite:
    """Runs `nonfinite` after a second, when the training is steps ahead."""

    id: ClassVar[str] = "slow"
    needs: ClassVar[tuple[Need, ...]] = (NONFINITE,)
    source: ClassVar[str] = ""

    def __call__(self, run: Run) -> Iterator[Finding]:
        time.sleep(1)
        yield from NonFinite()(run)


RULES["slow"] = SlowNonFinite


def rules(**named: Any) -> dict[str, Any]:
    return {"every": "log", "metrics": ["loss", "nonfinite", {"weight_norm": {"by": "layer"}}], "rules": named}


def loop(model: nn.Module, folder: Path, config: Any, *, steps: int = STEPS) -> None:
    """Trains a plain loop on ranks with different batches; the loss of rank 1 is NaN once."""
    rank = dist.get_rank()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, config, log_dir=folder, log_every=2) as watched:
        for step in range(1, steps + 1):
            found = model(torch.randn(4, 5)).square().mean() * (float("nan") if (rank, step) == (1, BAD) else 1.0)
            found.backward()
            optimizer.step()
            optimizer.zero_grad()
            watched.end_step(loss=found, samples=4)
            if watched.should_checkpoint:
                print(f"saves at {step}", flush=True)
            if watched.should_stop:
                break
    print(f"ended at {step}", flush=True)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))


def ddp(folder: Path) -> None:
    loop(DistributedDataParallel(net()), folder, rules(nonfinite=["checkpoint", "stop"]))


def slow(folder: Path) -> None:
    loop(DistributedDataParallel(net()), folder, rules(slow="stop"))


def sharded(folder: Path) -> None:
    """Shards a model; its histograms take the third collective of every due step."""
    config = rules(nonfinite="stop")
    loop(fully_shard(net()), folder, {**config, "metrics": [*config["metrics"], HISTOGRAMS]})


def uneven(folder: Path) -> None:
    """Trains without collectives of its own: rank 1 has ended when rank 0 asks for the action."""
    loop(net(), folder, rules(nonfinite="stop"), steps=STEPS if dist.get_rank() == 0 else BAD)


def warns(folder: Path) -> None:
    loop(DistributedDataParallel(net()), folder, rules(nonfinite="warn"))


class Spoiled(nn.Module):
    """A BERT with a NaN loss at one step of rank 1."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), 0

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Any:
        self.calls += self.training
        found = self.net(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        if self.training and (dist.get_rank(), self.calls) == (1, BAD):
            found["loss"] = found["loss"] * float("nan")
        return found


def hf(folder: Path) -> None:
    callback = TbxTrainerCallback(rules(nonfinite=["checkpoint", "stop"]), log_dir=folder)
    trained = hf_trainer(folder.parent / "hf", model=Spoiled(), callbacks=[callback], max_steps=STEPS)
    trained.train()
    print(f"ended at {trained.state.global_step}", flush=True)


def lightning(folder: Path) -> None:
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Spoiled()

        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            return self.net(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-2)

    trained = pl.Trainer(
        default_root_dir=folder.parent / "pl",
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=STEPS,
        log_every_n_steps=2,
        callbacks=[TbxLightningCallback(rules(nonfinite=["checkpoint", "stop"]), log_dir=folder)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trained.fit(Module(), DataLoader(rows(4 * STEPS), batch_size=2, collate_fn=collate))
    print(f"ended at {trained.global_step}", flush=True)


if __name__ == "__main__":
    base, scenarios = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    for scenario in scenarios:
        dist.barrier()
        print(f"<{scenario}>", flush=True)
        globals()[scenario](base / scenario)
        print(f"</{scenario}>", flush=True)
    dist.destroy_process_group()
