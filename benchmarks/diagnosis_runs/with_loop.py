"""Trains in a plain PyTorch loop with TbxLoop, or with a SummaryWriter and the loop's own tags."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from benchmarks.diagnosis_runs.cases import Facts, Logs, Place
from benchmarks.diagnosis_runs.checks_before import Checks, checked
from benchmarks.diagnosis_runs.data import Pair, dice
from tbx_callbacks import TbxLoop

LOG_EVERY, EVALUATE_EVERY = 5, 20


@dataclass
class Loop:
    """A plain training loop; a fault overrides the method that it gets wrong.

    Args:
        place: folders and seed.
        network: the network.
        optimizer: its optimizer, or several.
        train: inputs and labels for training.
        dev: inputs and labels for evaluation.
        logs: the metric set, or `own` for a SummaryWriter.
        loss_function: the loss of outputs and labels.
        steps: optimizer steps.
        batch: rows in a batch.
        clip: the limit of the gradient norm, or None.
        schedule: a schedule that advances with every step, or None.
        microbatches: batches in a step.
        order: chooses the rows of each batch; None shuffles.
        start_step: finished steps, for a loop that goes on.
    """

    place: Place
    network: nn.Module
    optimizer: Any
    train: Pair
    dev: Pair
    logs: Logs = "full"
    loss_function: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    steps: int = 160
    batch: int = 16
    clip: float | None = None
    schedule: Any = None
    microbatches: int = 1
    order: Sampler[int] | Sequence[int] | None = None
    start_step: int = 0
    losses: list[float] = field(default_factory=list, init=False)
    evaluations: list[dict[str, float]] = field(default_factory=list, init=False)
    now: int = field(default=0, init=False)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        return list(self.optimizer) if isinstance(self.optimizer, (list, tuple)) else [self.optimizer]

    # -- the parts of a step, which faults override --------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.loss_function(outputs, y)

    def backward(self, loss: Tensor) -> None:
        (loss / self.microbatches).backward()

    def clear_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step_optimizers(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def before_step(self) -> None:
        """Called before each step."""

    def set_evaluation_mode(self) -> None:
        self.network.eval()

    def set_training_mode(self) -> None:
        self.network.train()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches without end."""
        while True:
            yield from self.loader

    def tbx_options(self) -> dict[str, Any]:
        """Further arguments of TbxLoop."""
        return {}

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> Facts:
        """Trains, and evaluates every 20 steps."""
        shuffles = (
            {"generator": dice(self.place.seed), "shuffle": True} if self.order is None else {"sampler": self.order}
        )
        self.loader: DataLoader[Any] = DataLoader(TensorDataset(*self.train), self.batch, drop_last=True, **shuffles)
        log = _OwnTags(self) if self.logs == "own" else self._tbx()
        found = Checks()
        if isinstance(log, TbxLoop) and self.logs == "full":
            dev_loader = DataLoader(TensorDataset(*self.dev), self.batch)
            found = checked(lambda: log.preflight(self.loader, loss=self._loss_of, evaluation=dev_loader))
        with log:
            batches = iter(log.track(self.batches()))
            self.set_training_mode()
            for step in range(self.start_step + 1, self.start_step + self.steps + 1):
                self.now = step
                self._step(log, batches)
                if self.now % EVALUATE_EVERY == 0:
                    log.evaluate(**self._evaluate())
        last = self.evaluations[-1]
        return Facts(
            first=float(np.mean(self.losses[:4])),
            last=float(np.mean(self.losses[-16:])),
            eval_loss=last["loss"],
            best_eval=min(each["loss"] for each in self.evaluations),
            accuracy=last.get("accuracy"),
            is_live=self.logs != "own",
            preflight=found.findings,
            preflight_failed=found.failed,
        )

    def _tbx(self) -> TbxLoop:
        config = {"extends": self.logs, "rules": {"others": "warn"}}
        return TbxLoop(
            self.network,
            self.optimizer,
            config,
            log_dir=str(self.place.folder),
            log_every=LOG_EVERY,
            max_grad_norm=self.clip,
            start_step=self.start_step,
            **self.tbx_options(),
        )

    def _loss_of(self, network: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        """The loss of a batch, for the checks before the training."""
        x, y = batch
        outputs = self.forward(x)
        return self.loss(outputs, y), outputs if is_classification(outputs, y) else None

    def _step(self, log: Any, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        self.before_step()
        for part in range(1, self.microbatches + 1):
            x, y = next(batches)
            outputs = self.forward(x)
            loss = self.loss(outputs, y)
            self.backward(loss)
            if part == self.microbatches:
                log.before_clip()
                if self.clip:
                    nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
                self.step_optimizers()
                if self.schedule is not None:
                    self.schedule.step()
                self.clear_gradients()
            self.losses.append(float(loss.detach()))
            classified = {"outputs": outputs, "labels": y} if is_classification(outputs, y) else {}
            log.end_step(loss=loss, samples=len(x), **classified)

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        self.set_evaluation_mode()
        x, y = self.dev
        outputs = self.forward(x)
        found = {"loss": float(self.loss_function(outputs, y))}
        if is_classification(outputs, y):
            found["accuracy"] = float((outputs.argmax(-1) == y).float().mean())
        self.evaluations.append(found)
        self.set_training_mode()
        return found


def is_classification(outputs: Tensor, y: Tensor) -> bool:
    return y.dtype == torch.long and y.dim() == 1 and outputs.dim() == 2


class _OwnTags:
    """Writes the loss, the rate and evaluations as many loops do, with a SummaryWriter."""

    def __init__(self, loop: Loop) -> None:
        self._loop, self._writer = loop, SummaryWriter(str(loop.place.folder))

    def track(self, batches: Iterator[Any]) -> Iterator[Any]:
        return batches

    def before_clip(self) -> None: ...

    def end_step(self, *, loss: Tensor, **rest: Any) -> None:
        loop = self._loop
        if loop.now % LOG_EVERY == 0:
            self._writer.add_scalar("Loss/train", np.mean(loop.losses[-LOG_EVERY:]), loop.now)
            self._writer.add_scalar("lr", loop.optimizers[0].param_groups[0]["lr"], loop.now)

    def evaluate(self, **scores: float) -> None:
        for name, score in scores.items():
            self._writer.add_scalar({"loss": "Loss/val", "accuracy": "Accuracy/val"}[name], score, self._loop.now)

    def __enter__(self) -> _OwnTags:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()
