"""The HF Trainer and the Lightning Trainer on this rank, on its share of the same global batches; started by tests."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import DistributedType, PartialState
from problems import bert, collate, rows
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments
from ways import SET

from tbx_callbacks import TbxLightningCallback, TbxTrainerCallback

STEPS, BATCH, CLIP = 4, 8, 0.05


class InOrder(Trainer):
    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Net(nn.Module):
    """No keyword arguments beyond these: or the HF Trainer multiplies the loss by the number of ranks."""

    _no_split_modules = ("BertLayer",)

    def __init__(self) -> None:
        super().__init__()
        self.net = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        return self.net(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def data() -> Dataset[Any]:
    """Rows of one length: a mean of means over ranks is then the mean."""
    made: Any = rows(STEPS * BATCH)
    return made


def with_hf(way: str, folder: Path) -> None:
    ranks = int(dist.get_world_size()) if dist.is_initialized() else 1
    options: dict[str, Any] = {}
    if way == "hf-fsdp":
        config = {"fsdp_version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}
        options = {"fsdp": True, "fsdp_config": {**config, "transformer_layer_cls_to_wrap": ["BertLayer"]}}
    args = TrainingArguments(
        str(folder.parent / "hf"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH // ranks,
        learning_rate=1e-2,
        logging_steps=2,
        max_grad_norm=CLIP,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **options,
    )
    if way == "hf-fsdp":
        # Accelerate turns FSDP on for accelerators only. Told that the ranks are such, it shards on the CPU as well.
        _ = args.device
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    callback = TbxTrainerCallback(SET, log_dir=folder)
    trainer = InOrder(model=Net(), args=args, train_dataset=data(), data_collator=collate, callbacks=[callback])
    callback.attach(trainer)
    trainer.train()
    kinds = {type(parameter).__name__ for parameter in trainer.model_wrapped.parameters()}
    print(f"parameters are {sorted(kinds)} in {type(trainer.model_wrapped).__name__}", flush=True)


def with_lightning(folder: Path, ranks: int) -> None:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            return self.net(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    callback = TbxLightningCallback(SET, log_dir=folder)
    trainer = pl.Trainer(
        default_root_dir=folder.parent,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_steps=STEPS,
        log_every_n_steps=2,
        gradient_clip_val=CLIP,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    every = rows(STEPS * BATCH)
    rank = trainer.global_rank if ranks > 1 else 0
    # the same global batches as one process: rank r takes every ranks-th row
    loader = DataLoader(every[rank::ranks], batch_size=BATCH // ranks, collate_fn=collate)
    trainer.fit(Module(), loader)
    print(f"strategy is {type(trainer.strategy).__name__}", flush=True)


if __name__ == "__main__":
    way, target = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if way.startswith("lightning"):
        with_lightning(target, 2 if way == "lightning-ddp" else 1)
    else:
        if way != "hf":
            dist.init_process_group("gloo")
        with_hf(way, target)
    if dist.is_initialized():
        dist.destroy_process_group()
