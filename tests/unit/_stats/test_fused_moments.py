"""Tests the CUDA kernels, run by Triton's interpreter on the CPU, against the CPU path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._stats import fused_moments as fused
from tbx_callbacks._stats import histogram
from tbx_callbacks._stats.flat import flat
from tbx_callbacks._stats.norms import count_nonfinite, square_norms

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the kernels on the card itself")


@pytest.fixture(autouse=True)
def _no_numpy_warnings() -> Iterator[None]:
    """Silences numpy, which warns about infinities in the interpreter."""
    with np.errstate(all="ignore"):
        yield


def bad(numbers: Tensor) -> Tensor:
    numbers = numbers.clone()
    numbers[::1000] = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(len(numbers))[: len(numbers[::1000])]
    return numbers


def groups() -> dict[str, list[Tensor]]:
    torch.manual_seed(0)
    whole = torch.randn(70_001)
    return {
        "several chunks": [whole],
        "one element": [torch.tensor([3.0])],
        "a block and a bit": [torch.randn(1025)],
        "unaligned": [whole[1:5000], whole[3:7]],
        "not contiguous": [flat(torch.randn(50, 60).t())],
        "types beside each other": [whole[:5000], whole[:3001].bfloat16(), torch.randn(40_000).half()],
        "some are not finite": [bad(whole), bad(torch.randn(3000)).bfloat16()],
        "none is finite": [torch.full((9,), torch.nan), torch.tensor([torch.inf, -torch.inf])],
        "equal": [torch.full((4000,), 0.3)],
        "zeros": [torch.zeros(2000)],
        "empty ones among them": [torch.zeros(0), torch.randn(10), torch.zeros(0, dtype=torch.half)],
        "empty": [torch.zeros(0)],
        "huge": [torch.tensor([-3e38, 3e38, 1e38, 0.0])],
        "tiny": [torch.randn(1000) * 1e-36],
        "far from zero": [1e4 + torch.randn(5000)],
    }


def test_fused_moments_match_cpu() -> None:
    rows = list(groups().values())
    actual = fused.moments(rows)
    bounds = histogram.value_ranges(rows)
    assert torch.equal(torch.stack([actual.lows, actual.highs], 1), torch.stack(bounds))
    for index, (name, tensors) in enumerate(groups().items()):
        every = torch.cat([tensor.double() for tensor in tensors])
        finite = every[torch.isfinite(every)]
        assert actual.nonfinite[index] == len(every) - len(finite), name
        assert actual.totals[index].item() == pytest.approx(finite.sum().item(), rel=1e-6, abs=1e-3), name
        if name != "huge":  # their squares overflow float32
            assert actual.squares[index].item() == pytest.approx(finite.square().sum().item(), rel=1e-6), name


@pytest.mark.parametrize("bins", [1, 31, 64, 255])
def test_fused_histograms_match_cpu(bins: int) -> None:
    rows, names = list(groups().values()), list(groups())
    numbers = [max(1, bins - index) for index in range(len(rows))]
    ranges = histogram.value_ranges(rows)
    counted = fused.count(rows, ranges, numbers)
    for name, ours, theirs in zip(names, counted, histogram.count(rows, ranges, numbers), strict=True):
        actual, expected = histogram.finish(ours.tolist()), histogram.finish(theirs.tolist())
        assert len(ours) == len(theirs)
        assert (actual is None) == (expected is None) == (name in ("none is finite", "empty")), name
        if actual is None or expected is None:
            continue
        assert (actual.low, actual.high, sum(actual.counts)) == (expected.low, expected.high, sum(expected.counts)), (
            name
        )
        assert actual.total == pytest.approx(expected.total, rel=1e-6, abs=1e-3), name
        assert actual.total_squares == pytest.approx(expected.total_squares, rel=1e-6), name
        moved = sum(abs(a - b) for a, b in zip(actual.counts, expected.counts, strict=True)) / 2
        # bf16 and fp16 have few values: all elements at an edge may be counted in the bin beside it
        assert moved <= (0.02 * sum(expected.counts) if name == "types beside each other" else 4), name


def test_fused_count_over_wider_range_matches_cpu() -> None:
    """Other ranks may hold the smallest and the largest element."""
    tensor = torch.arange(-500, 501) / 500
    ranges = [torch.tensor([-4.0, 4.0], dtype=torch.float64)]
    (actual,), (expected,) = (variant([[tensor]], ranges, [8]) for variant in (fused.count, histogram.count))
    assert actual.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert actual[4:].tolist() == [0, 0, 0, 500, 500, 1, 0, 0]


def test_fused_moments_of_step_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    def of_each(tensors: list[Tensor]) -> fused.Moments:
        passes.append(len(tensors))
        return fused.moments([[flat(tensor)] for tensor in tensors])

    monkeypatch.setattr(fused, "tensor_moments", of_each)
    there = [torch.randn(2000), None, bad(torch.randn(30, 100).reshape(-1)), torch.randn(7), None]
    tensors, chosen = Tensors(there), [tensor for tensor in there if tensor is not None]
    groups = {"a": [0, 1, 2], "none": [4], "b": [3], "c": [1, 3, 0]}
    actual = tensors.grouped(groups)
    squares, nonfinite = tensors.squares, tensors.nonfinite
    assert passes == [3]
    monkeypatch.setattr(fused, "tensor_moments", lambda tensors: None)
    assert squares[[0, 3]].tolist() == pytest.approx(square_norms([chosen[0], chosen[2]]).tolist())
    assert squares[2].isinf()
    assert squares[[1, 4]].tolist() == [0, 0]
    assert nonfinite[[0, 2, 3]].tolist() == count_nonfinite(chosen, square_norms(chosen)).tolist() == [0, 3, 0]
    expected = Tensors(there).grouped(groups)
    assert list(actual) == list(expected) == ["a", "b", "c"]
    for name, (members, bounds) in actual.items():
        same, unknown = expected[name]
        assert unknown is None
        assert bounds is not None
        assert torch.equal(bounds, histogram.value_ranges([same])[0])
        assert [id(tensor) for tensor in members] == [id(tensor) for tensor in same]
        assert histogram.value_ranges([members], [bounds])[0] is bounds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fused_wrong_kernel_not_trusted(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    device, count = torch.device("cpu"), fused.count
    assert fused._matches_torch(device, dtype)

    def one_bin_off(*given: Any) -> list[Tensor]:
        return [torch.cat([row[:4], row[4:].roll(1)]) for row in count(*given)]

    monkeypatch.setattr(fused, "count", one_bin_off)
    assert not fused._matches_torch(device, dtype)


@pytest.mark.parametrize(
    ("right", "printed"),
    [(True, ""), (False, "wrong counts for torch.float32 on cuda:0"), (None, "Triton kernels disabled on cuda:0")],
)
def test_fused_failing_kernel_logged_once_not_trusted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, right: bool | None, printed: str
) -> None:
    tried: list[object] = []

    def answer(*given: object) -> bool:
        tried.append(given)
        if right is None:
            raise RuntimeError("no C compiler")
        return right

    monkeypatch.setattr(fused, "_matches_torch", answer)
    monkeypatch.setattr("torch.cuda.get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", lambda mode: None)
    fused._is_reliable.cache_clear()
    with caplog.at_level("INFO"):
        trusted = [fused._is_reliable(torch.device("cuda:0"), torch.float32) for _ in range(2)]
    fused._is_reliable.cache_clear()
    assert trusted == [bool(right)] * 2
    assert len(tried) == 1
    assert printed in caplog.text
    assert bool(caplog.text) == bool(printed)
