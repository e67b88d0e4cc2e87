"""Trains in a process of its own, for tests that break it. Run as: python training.py FOLDER"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import torch
from transformers import TrainerCallback

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.models import trainer

# The norm of the weights and the loss at every step, to compare the file with the standard output.
EVERY_STEP = {"every": 1, "metrics": ["loss", {"weight_norm": {"by": "total"}}, "weight_histogram", "hparams"]}


class PrintSteps(TrainerCallback):
    """Prints each step after the callback under test published it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            os.write(1, f"published {state.global_step} at {time.monotonic()}\n".encode())


def run(folder: str, **args: Any) -> None:
    callback = TbxTrainerCallback(EVERY_STEP, log_dir=f"{folder}/logs", flush_secs=0.5)
    defaults = {"logging_steps": 1, "max_steps": 100_000}
    made = trainer(folder, callbacks=[callback, PrintSteps()], **{**defaults, **args})
    made.train(resume_from_checkpoint=args.pop("resume", None))


def weights_digest(model: torch.nn.Module) -> str:
    import hashlib

    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - only the output of PrintSteps
    run(sys.argv[1], disable_tqdm=True)
