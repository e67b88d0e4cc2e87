"""Measures how the cost grows with elements, with many small tensors and with groups; and the size of the file.

    python benchmarks/scaling.py [--largest 1000] [--json scaling.json]

Norms and histograms (64 bins) of float32 tensors on the CPU, from tensors to numbers. The size of the file is
extrapolated to 10,000 steps from a real run of the set `default` on BERT-base (200 steps without an update).
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from tbx_callbacks import TbxLoop
from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._stats.norms import square_norms
from tbx_callbacks.metrics.values import Histogram

Groups = Sequence[Sequence[Tensor]]


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Seconds of the fastest round, after a warm-up."""
    work()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def norms(groups: Groups) -> float:
    tensors = [tensor for group in groups for tensor in group]
    return seconds(lambda: square_norms(tensors).tolist())


def histograms(groups: Groups) -> float:
    def work() -> None:
        batch = StepValues()
        batch.add({f"x/{place}": Histogram(group) for place, group in enumerate(groups)})
        batch.finish_local()

    return seconds(work)


def table(title: str, cases: dict[str, Groups]) -> dict[str, dict[str, float]]:
    print(f"\n{title:34} {'tensors':>8} {'M elements':>11} {'norms ms':>9} {'hist ms':>9} {'ns/element':>11}")
    found = {}
    for name, groups in cases.items():
        elements = sum(tensor.numel() for group in groups for tensor in group)
        tensors = sum(map(len, groups))
        taken = {"norms": norms(groups), "histograms": histograms(groups)}
        found[name] = {**taken, "elements": elements, "tensors": tensors}
        each = 1e9 * taken["histograms"] / elements
        print(
            f"{name:34} {tensors:8} {elements / 1e6:11.1f} {1e3 * taken['norms']:9.1f}"
            f" {1e3 * taken['histograms']:9.1f} {each:11.2f}"
        )
    return found


def file_size() -> dict[str, float]:
    """Size in bytes after 10,000 steps of BERT-base, extrapolated from a real run of 200."""
    model = BertForSequenceClassification(BertConfig())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sizes = []
    with tempfile.TemporaryDirectory() as folder, TbxLoop(model, optimizer, "default", log_dir=folder) as loop:
        (file,) = Path(folder).glob("*tfevents*")
        for step in range(1, 201):
            optimizer.step()
            loop.end_step(loss=0.5, samples=32)
            if step in (99, 109, 199):
                loop.writer.flush()
                sizes.append(file.stat().st_size)
    start, after, end = sizes
    scalars = (end - after) / 9  # nine points of scalars lie between steps 109 and 199
    histogram = after - start - scalars  # steps 100 (histograms and scalars)
    whole = 1000 * scalars + 100 * histogram
    print(f"\nfile: {scalars / 1024:.1f} KiB a point of scalars, {histogram / 1024:.1f} KiB a point of histograms;")
    print(f"10,000 steps of BERT-base with `default`: {whole / 2**20:.1f} MiB")
    return {"scalar_point": scalars, "histogram_point": histogram, "run_of_10000": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1000, help="most elements of one tensor, in millions")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    millions = [size for size in (1, 10, 100, 1000) if size <= options.largest]
    found = {
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "elements": table("one tensor", {f"{n} M": [[nn.init.normal_(torch.empty(n * 10**6))]] for n in millions}),
        "small": table(
            "small tensors, a group each",
            {f"{n} of 768": [[torch.randn(768)] for _ in range(n)] for n in (10, 500, 5000)},
        ),
        "groups": table(
            "12.8 M elements in groups of 8",
            {
                f"{n} groups": [[torch.randn(1_600_000 // n) for _ in range(8)] for _ in range(n)]
                for n in (1, 10, 100, 1000)
            },
        ),
        "file": file_size(),
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
