"""Tests the compilation of the Triton kernels for GPUs, on a machine without one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.processes import python

pytest.importorskip("triton", reason="Triton is not installed")


COMPILE = """
import inspect
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tbx_callbacks._stats import fused_moments as fused
from tbx_callbacks._stats import triton_kernels as kernels

POINTERS = {"table": "*i64", "order": "*i64", "stats": "*fp64", "ranges": "*fp64", "bins": "*i64", "counts": "*i64"}
POINTERS |= {"first": "*i64", "out": "*fp64", "chunks": "i32"}

def compiled(kernel, card, **constants):
    names = kernel.arg_names
    signature = {name: POINTERS.get(name, "constexpr") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    built = triton.compile(source, target=GPUTarget("cuda", card, 32), options={"num_warps": fused._WARPS})
    return built.asm["ptx"]

for card in (80, 90):
    for dtype in (tl.float32, tl.bfloat16, tl.float16):
        for aligned in (True, False):
            kind = {"DTYPE": dtype, "ALIGNED": aligned, "BLOCK": fused._BLOCK}
            for text in (compiled(kernels.moments, card, **kind), compiled(kernels.count, card, BINS=64, **kind)):
                wide = sum("ld.global" in line and ".v4" in line for line in text.splitlines())
                assert bool(wide) == aligned, (card, dtype, aligned, wide)
    compiled(kernels.count, card, DTYPE=tl.float32, ALIGNED=True, BLOCK=fused._BLOCK, BINS=256)
    compiled(kernels.merge_moments, card, BLOCK=256)
    compiled(kernels.merge_counts, card, BLOCK=256, BINS=64)
print("compiled")
"""


@pytest.mark.slow
def test_kernels_compiled_for_cards_load_sixteen_bytes(tmp_path: Path) -> None:
    """Compiling needs no GPU; with wide loads a pass can reach the GPU's bandwidth."""
    settings = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    script = tmp_path / "compile_kernels.py"
    script.write_text(COMPILE)
    ended = python(script, env=settings, seconds=250)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.splitlines()[-1] == "compiled"
