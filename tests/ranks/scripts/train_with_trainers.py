"""Trains with each trainer and strategy that the arguments name, on this rank's share of the batches."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from tbx_callbacks import TbxLightningCallback, TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import bert
from tests.ranks.scripts import log_own_tag
from tests.ranks.scripts.train_in_loop import SET as SHARDED

STEPS, BATCH, CLIP = 4, 8, 0.05
SET: dict[str, Any] = {**SHARDED, "metrics": [*SHARDED["metrics"], "outputs", "train_accuracy"]}


class InOrder(Trainer):
    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Net(nn.Module):
    """A model without **kwargs; with them the HF Trainer would multiply the loss by the number of ranks."""

    _no_split_modules = ("BertLayer",)

    def __init__(self) -> None:
        super().__init__()
        self.net = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        given = self.net(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        return {"loss": given.loss, "logits": given.logits, "aux_loss": given.logits.square().mean()}


def data() -> Dataset[Any]:
    """Rows of one length, so that the mean of the ranks' means is the mean."""
    made: Any = rows(STEPS * BATCH)
    return made


def fsdp(**options: Any) -> dict[str, Any]:
    config = {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "transformer_layer_cls_to_wrap": ["BertLayer"]}
    return {"fsdp": True, "fsdp_config": {**config, **options}}


def fsdp1(**options: Any) -> dict[str, Any]:
    return fsdp(version=1, sync_module_states=False, **options)  # only accelerators support it


OPTIONS: dict[str, dict[str, Any]] = {
    "hf": {},
    "hf-ddp": {},
    "hf-fsdp": fsdp(version=2),
    "hf-fsdp1": fsdp1(use_orig_params=True),
    "hf-fsdp1-flat": fsdp1(use_orig_params=False),
}


def with_hf(strategy: str, folder: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # clears the previous training
    ranks = int(dist.get_world_size()) if dist.is_initialized() else 1
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
        **OPTIONS[strategy],
    )
    if "fsdp" in strategy:
        # Accelerate turns FSDP on for accelerators only; this patch turns it on for the CPU.
        _ = args.device
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    callback = TbxTrainerCallback(SET, log_dir=folder)
    trainer = InOrder(model=Net(), args=args, train_dataset=data(), data_collator=collate, callbacks=[callback])
    if "fsdp" in strategy:
        # no device index: FSDP1 treats cpu:0 and cpu as different devices
        for state in (PartialState, AcceleratorState):
            state._shared_state["device"] = torch.device("cpu")
    callback.attach(trainer)
    trainer.train()
    kinds = {"flat" if hasattr(p, "_is_flat_param") else type(p).__name__ for p in trainer.model_wrapped.parameters()}
    print(f"{strategy}: parameters are {sorted(kinds)} in {type(trainer.model_wrapped).__name__}", flush=True)


def with_lightning(strategy: str, folder: Path, ranks: int) -> None:
    import lightning.pytorch as pl
    from lightning.pytorch.strategies import ModelParallelStrategy

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def configure_model(self) -> None:
            if strategy == "lightning-fsdp2":
                fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            return self.net(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    callback = TbxLightningCallback(SET, log_dir=folder)
    chosen: Any = "ddp" if ranks > 1 else "auto"
    if strategy == "lightning-fsdp2":
        chosen = ModelParallelStrategy(data_parallel_size=ranks, tensor_parallel_size=1)
    trainer = pl.Trainer(
        default_root_dir=folder.parent,
        accelerator="cpu",
        devices=ranks,
        strategy=chosen,
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
    module = Module()
    trainer.fit(module, loader)
    kinds = {type(parameter).__name__ for parameter in module.parameters()}
    print(f"{strategy}: parameters are {sorted(kinds)} in {type(trainer.strategy).__name__}", flush=True)


if __name__ == "__main__":
    target, chosen = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    several = "hf" not in chosen
    if several:
        dist.init_process_group("gloo")
    for each in chosen:
        print(f"<{each}>", file=sys.stderr, flush=True)
        if each == "lightning-own-tag":
            log_own_tag.train(target / each)
        elif each.startswith("lightning"):
            with_lightning(each, target / each, 2 if several else 1)
        else:
            with_hf(each, target / each)
    if dist.is_initialized():
        dist.destroy_process_group()
