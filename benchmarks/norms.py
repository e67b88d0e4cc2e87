"""Measures the accuracy of this package's and torch's norms on CPU, against float64. Run: python benchmarks/norms.py"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch

from tbx_callbacks._stats.norms import square_norms


def best_time(function: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    torch.manual_seed(0)
    rows = []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; relative error of the norm against float64")
    print(f"{'elements':>12} {'vector_norm':>12} {'_foreach_norm':>14} {'ours':>10} {'ours, time / vector_norm':>26}")
    for elements in (10_000, 1_000_000, 4_000_000, 23_440_896, 100_000_000):
        tensor = torch.randn(elements)
        exact = tensor.double().square().sum().sqrt().item()
        errors = [
            abs(norm / exact - 1)
            for norm in (
                torch.linalg.vector_norm(tensor).item(),
                torch._foreach_norm([tensor])[0].item(),
                square_norms([tensor]).sqrt().item(),
            )
        ]
        ours, theirs = (
            best_time(lambda t=tensor, f=function: f(t))
            for function in (lambda t: square_norms([t]), torch.linalg.vector_norm)
        )
        print(f"{elements:>12,} {errors[0]:>12.1e} {errors[1]:>14.1e} {errors[2]:>10.1e} {ours / theirs:>26.2f}")
        rows.append({"elements": elements, "errors": errors, "time_ratio": ours / theirs})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
