"""Trains BERT with each DeepSpeed strategy that the arguments name, or with one process."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState

from tbx_callbacks import TbxLoop, TbxTrainerCallback
from tests.helpers.data import SHARDED as SET
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer

RANKS, CLIP = 2, 0.5


def deepspeed(strategy: str) -> dict[str, Any]:
    """The configuration of ZeRO stage N, with or without an offloaded optimizer."""
    zero: dict[str, Any] = {"stage": int(strategy[4])}
    if strategy.endswith("offload"):
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }


def model_of() -> Any:
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for parameter in model.bert.embeddings.position_embeddings.parameters():
        parameter.requires_grad = False
    return model


def with_hf(strategy: str, folder: Path) -> Any:
    AcceleratorState._reset_state(reset_partial_state=True)  # clears the previous training
    callback = TbxTrainerCallback(SET, log_dir=folder)
    spread = strategy != "alone"
    run = trainer(
        Path(tempfile.mkdtemp()),
        model=model_of(),
        max_steps=6,
        per_device_train_batch_size=2 if spread else 4,
        gradient_accumulation_steps=1,
        average_tokens_across_devices=False,  # BERT's loss is already a mean
        max_grad_norm=CLIP,
        deepspeed=deepspeed(strategy) if spread else None,
    )
    callback.attach(run)
    run.train()
    return run.deepspeed if spread else None


def in_loop(strategy: str, folder: Path) -> Any:
    """Trains `loop-zeroN` with an engine of `deepspeed.initialize`."""
    model = model_of()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    engine, rank, ranks = None, 0, 1
    if strategy != "loop-alone":
        from deepspeed import initialize

        config = deepspeed(strategy.removeprefix("loop-"))
        config |= {"gradient_clipping": CLIP, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1}
        engine, optimizer, _, _ = initialize(model=model, optimizer=optimizer, config=config)
        rank, ranks = dist.get_rank(), dist.get_world_size()
    with TbxLoop(model, optimizer, SET, log_dir=folder, log_every=2, max_grad_norm=CLIP) as loop:
        for step in range(6):
            batch = {key: value[rank::ranks] for key, value in collate(rows(4, seed=step)).items()}
            loss = (engine or model)(**batch).loss
            if engine is None:
                loss.backward()
                loop.before_clip()
                torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad()
            else:
                engine.backward(loss)
                engine.step()
            loop.end_step(loss=loss, samples=len(batch["labels"]), tokens=batch["attention_mask"].sum())
    return engine


def train(strategy: str, folder: Path) -> None:
    engine = (in_loop if strategy.startswith("loop") else with_hf)(strategy, folder)
    if engine is not None:
        zero = engine.optimizer
        stage = engine.zero_optimization_stage()
        parts = zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
        here = sum(part.numel() for part in parts)
        print(f"{strategy}: {type(engine).__name__} with {type(zero).__name__}, {here} elements here", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(1)
    target, chosen = Path(sys.argv[1]), sys.argv[2:]
    for each in chosen:
        print(f"<{each}>", file=sys.stderr, flush=True)
        train(each, target / each)
    if dist.is_initialized():
        dist.destroy_process_group()
