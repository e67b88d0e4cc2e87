"""Measures the CPU time per element of each operator of the histogram count, on one thread, in pieces of 512 Ki.

`from memory` reads a piece that is in no cache, as the first operator of a pass does; the others find it in a cache.

    python benchmarks/operators.py [--json operators.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

PIECE, PIECES, BINS = 1 << 19, 64, 64


def operators(piece: Tensor) -> dict[str, Callable[[Tensor], object]]:
    """The operators by name; `piece` stays in the cache."""
    rows, half = BINS + 1, PIECE // 2
    low, high = (bound.item() for bound in torch.aminmax(piece))
    scale = BINS / (high - low)
    shift, out = torch.tensor(-low * scale), torch.empty(PIECE)
    scaled = torch.add(shift, piece, alpha=scale)
    bins, bytes_, pairs = scaled.short(), scaled.byte(), torch.empty(half, dtype=torch.int16)
    torch.add(bins[:half], bins[half:], alpha=rows, out=pairs)
    return {
        "aminmax, from memory": torch.aminmax,
        "norms of short rows, from memory": lambda cold: torch.linalg.vector_norm(cold.view(-1, 1024), dim=1),
        "sum": lambda _: piece.sum(),
        "scale and shift": lambda _: torch.add(shift, piece, alpha=scale, out=out),
        "to int16": lambda _: bins.copy_(scaled),
        "two bins in one number": lambda _: torch.add(bins[:half], bins[half:], alpha=rows, out=pairs),
        "bincount of two": lambda _: torch.bincount(pairs, minlength=rows**2),
        "instead: norms of short rows": lambda _: torch.linalg.vector_norm(piece.view(-1, 1024), dim=1),
        "instead: square and its sum": lambda _: torch.mul(piece, piece, out=out).sum(),
        "instead: square and its sum, from memory": lambda cold: torch.mul(cold, cold, out=out).sum(),
        "instead: to uint8": lambda _: bytes_.copy_(scaled),
        "instead: bincount of one, uint8": lambda _: torch.bincount(bytes_, minlength=rows),
        "instead: histc": lambda _: torch.histc(piece, BINS, low, high),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cold = (0.02 * torch.randn(PIECE * PIECES)).split(PIECE)
    found = {}
    for name, operator in operators(cold[0].clone()).items():
        times = []
        for _ in range(4):
            started = time.thread_time()
            for piece in cold:
                operator(piece)
            times.append(time.thread_time() - started)
        found[name] = 1e9 * min(times) / (PIECE * PIECES)
        print(f"{name:40} {found[name]:6.3f} ns/element")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
