"""Reads the size of a full micro-batch from a Hugging Face Trainer."""

from __future__ import annotations

from typing import Any


def batch_size(args: Any, state: Any, dataloader: Any) -> int | None:
    """Samples in a full micro-batch: those of the dataloader, which the user may have replaced, or of the arguments."""
    sources = (dataloader, getattr(dataloader, "batch_sampler", None))
    for size in (*(getattr(source, "batch_size", None) for source in sources), configured(args, state)):
        if isinstance(size, int) and size > 0:
            return size
    return None


def configured(args: Any, state: Any) -> int:
    """The batch size of the arguments, or the smaller one that `auto_find_batch_size` found."""
    return int(getattr(state, "train_batch_size", None) or args.train_batch_size)


class BatchSize:
    """Samples in a full micro-batch of a trainer; reads its dataloader once.

    A trainer that receives rows (a list) may use them over several steps; its own samples are those of its arguments.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer: Any = trainer
        self._dataloader: Any = self
        self._size: int | None = None

    def __call__(self, batch: Any) -> int | None:
        trainer = self._trainer
        if isinstance(batch, list):
            return configured(trainer.args, trainer.state)
        dataloader = trainer.callback_handler.train_dataloader
        if dataloader is not self._dataloader:  # a training has begun
            self._dataloader, self._size = dataloader, batch_size(trainer.args, trainer.state, dataloader)
        return self._size
