"""Measures all norms and per-layer histograms of weights and gradients on CUDA, against reading the tensors once.

For BERT-base and a stack of 1 G parameters, in float32 and bfloat16. The unit is the time that the GPU needs to read
the tensors once at the bandwidth of its own copies, plus the smallest possible number of launches. Copies to the host
are included. `operators` is the same without the package's Triton kernels. It also prints the share of a training step
that the set `default` takes at its own cadence. Without a CUDA device it prints a message and exits.

    python benchmarks/gpu.py [--rounds 5] [--json gpu.json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertForSequenceClassification

from tbx_callbacks import TbxLoop
from tbx_callbacks._distributed.packing import PackedValues, StepValues
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._stats import fused_moments as fused
from tbx_callbacks.metrics.values import Histogram, Sum

LAUNCH_S = 4e-6  # seconds per kernel launch, when the device waits for it
LAUNCHES = 8  # a pass and its merge, twice, for weights and for gradients
BAR, BAR_STEP = 3.0, 0.01
Result = TypeVar("Result")


def fastest(work: Callable[[], object], rounds: int) -> float:
    """Seconds on the device."""
    work()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def bandwidth(rounds: int) -> float:
    """Bytes per second that the GPU reads (and writes) in a copy."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest(lambda: target.copy_(source), rounds)


def bert() -> nn.Module:
    return BertForSequenceClassification(BertConfig())


def stack() -> nn.Module:
    """A stack of 16 layers with 1.07 G parameters."""
    return nn.Sequential(*(nn.Linear(8192, 8192, bias=False) for _ in range(16)))


def _bert_loss(model: nn.Module) -> Tensor:
    ids = torch.randint(0, 30_000, (32, 128), device="cuda")
    loss: Tensor = model(input_ids=ids, labels=torch.zeros(32, dtype=torch.int64, device="cuda")).loss
    return loss


def _stack_loss(model: nn.Module) -> Tensor:
    loss: Tensor = model(torch.randn(512, 8192, device="cuda", dtype=next(model.parameters()).dtype)).square().mean()
    return loss


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]] = {
    "BERT-base": (bert, _bert_loss),
    "stack, 1 G": (stack, _stack_loss),
}


def by_layer(names: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(".".join(name.split(".")[:4]), []).append(place)
    return groups


def by_operators(work: Callable[[], Result]) -> Result:
    with mock.patch.object(fused, "takes", return_value=False):
        return work()


def everything(model: nn.Module) -> PackedValues:
    """All norms, and histograms of weights and gradients by layer, including the copy to the host."""
    names, batch = [name for name, _ in model.named_parameters()], StepValues()
    for kind in ("weights", "grads"):
        measured = Tensors([p.detach() if kind == "weights" else p.grad for p in model.parameters()])
        squares = measured.squares.unbind()
        batch.add({f"{kind}_norm/{name}": Sum(square) for name, square in zip(names, squares, strict=True)})
        layers = measured.grouped(by_layer(names))
        batch.add({f"{kind}/{layer}": Histogram(tensors, 64, bounds) for layer, (tensors, bounds) in layers.items()})
    return batch.pack()


def launches(work: Callable[[], object]) -> int:
    """Number of kernels that it launches."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    return sum(event.count for event in seen.key_averages() if event.key in ("cudaLaunchKernel", "cuLaunchKernel"))


def step_seconds(model: nn.Module, loss_of: Callable[[], Tensor], folder: str | None, steps: int) -> float:
    """Seconds per training step with the set `default`, or without the callback."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    loop = TbxLoop(model, optimizer, "default", log_dir=folder, log_every=50) if folder else None
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loop is not None:
            loop.end_step(loss=loss, samples=32)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / steps
    if loop is not None:
        loop.close()
    return seconds


def measure(name: str, dtype: torch.dtype, speed: float, rounds: int) -> dict[str, Any]:
    make, loss_of = MODELS[name]
    model = make().to("cuda", dtype)
    loss_of(model).backward()
    read = sum(p.nbytes + (p.grad.nbytes if p.grad is not None else 0) for p in model.parameters())
    number = launches(lambda: everything(model))
    once = read / speed + LAUNCHES * LAUNCH_S
    seconds = fastest(lambda: everything(model), rounds)
    operators = fastest(lambda: by_operators(lambda: everything(model)), rounds)
    model.zero_grad()
    bare, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            bare.append(step_seconds(model, lambda: loss_of(model), None, 100))
            ours.append(step_seconds(model, lambda: loss_of(model), f"{folder}/{turn}", 100))
    return {
        "model": name,
        "dtype": str(dtype).removeprefix("torch."),
        "read_ms": 1e3 * read / speed,
        "launches": number,
        "kernels": fused.supports([next(model.parameters())]),
        "measured_ms": 1e3 * seconds,
        "times": seconds / once,
        "operators_times": operators / once,
        "step_ms": 1e3 * min(bare),
        "default_share": min(ours) / min(bare) - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("nothing measured: this needs a CUDA device, and torch sees none here")
        return
    card, speed = torch.cuda.get_device_name(), bandwidth(options.rounds)
    print(f"{card}, torch {torch.__version__}, copies at {speed / 1e9:.0f} GB/s (read and written)")
    print(
        f"{'model':12} {'type':>9} {'read ms':>8} {'launches':>9} {'measured ms':>12} {f'times ({BAR:g})':>10}"
        f" {'operators':>10} {f'default ({BAR_STEP:.0%})':>13}"
    )
    rows = []
    for name in MODELS:
        for dtype in (torch.float32, torch.bfloat16):
            row = measure(name, dtype, speed, options.rounds)
            rows.append(row)
            print(
                f"{name:12} {row['dtype']:>9} {row['read_ms']:8.2f} {row['launches']:9} {row['measured_ms']:12.2f}"
                f" {row['times']:10.1f} {row['operators_times']:10.1f} {row['default_share']:13.2%}"
            )
            torch.cuda.empty_cache()
    if options.json:
        found = {
            "card": card,
            "torch": torch.__version__,
            "copy_bytes_per_s": speed,
            "bars": {"times": BAR, "default_share": BAR_STEP},
            "rows": rows,
        }
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
