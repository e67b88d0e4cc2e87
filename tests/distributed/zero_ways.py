"""Trains BERT under the HF Trainer with DeepSpeed ZeRO, or alone; started by the tests under torchrun."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from problems import bert, trainer

from tbx_callbacks import TbxTrainerCallback

RANKS, CLIP = 2, 0.5
SET: dict[str, Any] = {
    "every": 2,
    "metrics": [
        "loss",
        "learning_rate",
        "clip",
        "throughput",
        "nonfinite",
        {"grad_norm": {"by": "total"}},
        {"grad_norm": {"by": "parameter"}},
        {"grad_norm_clipped": {"by": "layer"}},
        {"weight_norm": {"by": "parameter"}},
        {"update_norm": {"by": "layer"}},
        {"update_ratio": {"by": "layer"}},
        {"optimizer_state": {"by": "layer"}},
        {"weight_histogram": {"every": 2}},
        {"grad_histogram": {"every": 2}},
    ],
}


def deepspeed(way: str) -> dict[str, Any]:
    """Zero-N, perhaps with an offloaded optimizer."""
    zero: dict[str, Any] = {"stage": int(way[4])}
    if way.endswith("offload"):
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }


def train(way: str, folder: Path) -> None:
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for parameter in model.bert.embeddings.position_embeddings.parameters():
        parameter.requires_grad = False
    callback = TbxTrainerCallback(SET, log_dir=folder)
    spread = way != "alone"
    run = trainer(
        Path(tempfile.mkdtemp()),
        model=model,
        max_steps=6,
        per_device_train_batch_size=2 if spread else 4,
        gradient_accumulation_steps=1,
        average_tokens_across_devices=False,  # BERT's loss is a mean already
        max_grad_norm=CLIP,
        deepspeed=deepspeed(way) if spread else None,
    )
    callback.attach(run)
    run.train()
    if spread:
        zero = run.deepspeed.optimizer
        parts = zero.fp32_partitioned_groups_flat if way[4] == "3" else zero.single_partition_of_fp32_groups
        print(f"trained by {type(run.deepspeed).__name__} with {type(zero).__name__}", flush=True)
        print(
            f"elements here: {sum(part.numel() for part in parts)} at stage {run.deepspeed.zero_optimization_stage()}"
        )


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(1)
    train(sys.argv[1], Path(sys.argv[2]))
    if dist.is_initialized():
        dist.destroy_process_group()
