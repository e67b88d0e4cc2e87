"""Runs the recipe as a launcher does, and prints the class of its parameters."""

from __future__ import annotations

import os
import runpy
import sys
from typing import Any

import torch
import transformers
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState

from tests.helpers.runs import ROOT

RECIPE = ROOT / "recipes" / "bert_sentiment.py"


class Trainer(transformers.Trainer):
    def __init__(self, *args: Any, **options: Any) -> None:
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            # Accelerate turns FSDP on for accelerators only; this patch turns it on for the CPU.
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        super().__init__(*args, **options)
        # no device index: FSDP treats cpu:0 and cpu as different devices
        for state in (PartialState, AcceleratorState):
            state._shared_state["device"] = torch.device("cpu")

    def train(self, *args: Any, **options: Any) -> Any:
        result = super().train(*args, **options)
        kinds = {type(parameter).__name__ for parameter in self.model_wrapped.parameters()}
        inner = type(getattr(self.model_wrapped, "optimizer", None)).__name__
        print(f"trained {sorted(kinds)} in {type(self.model_wrapped).__name__} with {inner}", flush=True)
        return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.modules["transformers"].Trainer = Trainer  # type: ignore[attr-defined]  # not the module that was imported
    sys.argv = [str(RECIPE), *sys.argv[1:]]
    runpy.run_path(str(RECIPE), run_name="__main__")
