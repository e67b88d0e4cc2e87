"""Measures the cost of a due step on each rank with sharded parameters, and the traffic of the reduction.

Run: python benchmarks/distributed.py. The table of 8 to 4096 ranks is a model fitted to these measurements;
docs/scale.md states its limits.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from tbx_callbacks import TbxLoop

WIDTH, LAYERS, STEPS, EVERY = 768, 24, 24, 2
SET: dict[str, Any] = {
    "every": EVERY,
    "metrics": [
        "loss",
        "clip",
        "throughput",
        "nonfinite",
        {"grad_norm": {"by": "layer"}},
        {"weight_norm": {"by": "layer"}},
        {"update_ratio": {"by": "layer"}},
        {"weight_histogram": {"by": "layer", "every": EVERY}},
        {"grad_histogram": {"by": "layer", "every": EVERY}},
    ],
}


def sockets() -> int:
    return sum("socket" in os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir())


def measure(folder: str) -> dict[str, Any]:
    """Measures, on one rank, CPU seconds of the training thread per due step, and the traffic of the gloo group."""
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)])
    if size > 1:
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sent: list[int] = []
    reduce = dist.ProcessGroupGloo.allreduce

    def counted(group: Any, tensors: Any, options: Any) -> Any:
        sent.append(tensors[0].numel() * tensors[0].element_size())
        return reduce(group, tensors, options)

    dist.ProcessGroupGloo.allreduce = counted
    before = sockets()
    costs, moved = [], []
    with TbxLoop(model, optimizer, SET, log_dir=folder, max_grad_norm=1.0) as loop:
        ours = sockets() - before
        ranks, watch = loop._session._engine.publisher.reducer, loop._session._engine.stopwatch
        watch.clock = time.thread_time  # ranks share cores here: wall time would include waiting for each other
        for step in range(1, STEPS + 1):
            loss = model(torch.randn(4, WIDTH)).square().mean()
            loss.backward()
            so_far = watch.monitoring
            loop.before_clip()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=4)
            if ranks is not None:
                ranks.drain(60)
            if step % EVERY == 0 and step > EVERY:
                costs.append(watch.monitoring - so_far)
                moved.append(list(sent))
            sent.clear()
        hop = 0.0
        if ranks is not None:
            times = []
            for _ in range(100):
                start = time.perf_counter()
                dist.all_reduce(torch.zeros(512, dtype=torch.float64))
                times.append(time.perf_counter() - start)
            hop = statistics.median(times) / (2 * (size - 1))
    found = {"rank": rank, "seconds": statistics.median(costs), "bytes": moved[-1], "sockets": ours, "hop": hop}
    everyone: list[Any] = [None] * size
    dist.all_gather_object(everyone, found)
    worst = max(everyone, key=lambda one: one["seconds"])
    mean = statistics.mean(one["seconds"] for one in everyone)
    return {"ranks": size, **worst, "mean": mean, "hop": statistics.median(one["hop"] for one in everyone)}


def start(number: int) -> dict[str, Any]:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.getsockname()[1]), "WORLD_SIZE": str(number)}
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "rank", folder],
                env={**os.environ, **where, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(number)
        ]
        said = [process.communicate(timeout=300)[0] for process in processes]
    found: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return found


def main() -> None:
    parameters = LAYERS * (WIDTH * WIDTH + WIDTH)
    print(f"torch {torch.__version__}; {parameters / 1e6:.1f} M parameters, FSDP2 (gloo, CPU), one thread a rank")
    print(f"{'ranks':>6} {'CPU ms a due step':>18} {'of one rank':>12} {'collectives':>12} {'bytes':>8} {'sockets':>8}")
    rows = [start(number) for number in (1, 2, 4)]
    for row in rows:
        share = row["mean"] / rows[0]["mean"]
        moved = f"{len(row['bytes']):>12} {sum(row['bytes']):>8,} {row['sockets']:>8}"
        print(f"{row['ranks']:>6} {row['mean'] * 1e3:>18.1f} {share:>12.2f} {moved}")
    size, calls = sum(rows[-1]["bytes"]), len(rows[-1]["bytes"])
    # t(N) = fixed + work / N, fitted to the costs of one rank and of four
    work = (rows[0]["mean"] - rows[-1]["mean"]) * 4 / 3
    fixed, hop = rows[0]["mean"] - work, rows[1]["hop"]  # with one core per rank
    print(f"\nmodel: cost = {fixed * 1e3:.1f} ms + {work * 1e3:.1f} ms / N; a hop takes {hop * 1e6:.0f} us here")
    print(
        f"{'ranks':>6} {'cost, ms':>9} {'bytes a rank':>18} {'merge here, ms':>15} {'at 30 us, ms':>13} {'sockets':>8}"
    )
    model = []
    for number in (8, 16, 64, 256, 1024, 4096):
        hops = calls * 2 * (number - 1)  # gloo reduces in a ring
        row = {
            "ranks": number,
            "cost_ms": (fixed + work / number) * 1e3,
            "bytes": round(2 * (number - 1) / number * size),
            "merge_ms": hops * hop * 1e3,
            "merge_30us_ms": hops * 0.03,
            "sockets": number,  # gloo connects every pair, and listens
        }
        model.append(row)
        print(
            f"{number:>6} {row['cost_ms']:>9.1f} {row['bytes']:>18,} {row['merge_ms']:>15.1f}"
            f" {row['merge_30us_ms']:>13.1f} {row['sockets']:>8}"
        )
    print(json.dumps({"parameters": parameters, "measured": rows, "model": model}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["rank"]:
        dist.init_process_group("gloo")
        found = measure(sys.argv[2])
        dist.barrier()
        if dist.get_rank() == 0:
            print(json.dumps(found))
        dist.destroy_process_group()
    else:
        main()
