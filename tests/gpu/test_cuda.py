"""Tests on CUDA that values equal those of the CPU and that the training thread never waits."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from tbx_callbacks import TbxLoop
from tbx_callbacks._stats import histogram
from tbx_callbacks._stats.flat import flat
from tbx_callbacks._stats.host_copy import HostCopy
from tbx_callbacks._stats.norms import count_nonfinite, square_norms
from tests.helpers.gpu import FULL, TYPES, no_waiting, tensors
from tests.helpers.runs import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none here"),
]


@pytest.mark.parametrize("dtype", TYPES)
def test_cuda_norms_match_cpu(dtype: torch.dtype) -> None:
    here = tensors(dtype)
    there = [tensor.cuda() for tensor in here]
    with no_waiting():
        squares = square_norms(there)
        bad = count_nonfinite(there, squares)
        fetch = HostCopy([squares, bad])
    expected = square_norms(here)
    (found, counted) = fetch.read()
    assert found[:3] == pytest.approx(expected.tolist()[:3], rel=1e-5)
    assert not torch.tensor(found[3]).isfinite()
    assert counted == count_nonfinite(here, expected).tolist() == [0, 0, 0, 4]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bins", [1, 64, 255])
def test_cuda_histograms_match_cpu(dtype: torch.dtype, bins: int) -> None:
    flats = [flat(tensor) for tensor in tensors(dtype)]
    groups = [[tensor] for tensor in flats] + [flats]
    there = [[tensor.cuda() for tensor in group] for group in groups]
    with no_waiting():
        counted = histogram.count(there, histogram.value_ranges(there), [bins] * len(there))
        fetch = HostCopy(counted)
    expected = histogram.count(groups, histogram.value_ranges(groups), [bins] * len(groups))
    for ours, theirs in zip(fetch.read(), expected, strict=True):
        found, wanted = histogram.finish(ours), histogram.finish(theirs.tolist())
        assert (found is None) == (wanted is None)
        if found is None or wanted is None:
            continue
        assert (found.low, found.high, sum(found.counts)) == (wanted.low, wanted.high, sum(wanted.counts))
        assert found.total == pytest.approx(wanted.total, rel=1e-4, abs=1e-2)
        assert found.total_squares == pytest.approx(wanted.total_squares, rel=1e-5)
        # bf16 has few values: all elements at an edge may be counted in the bin beside it.
        moved = sum(abs(a - b) for a, b in zip(found.counts, wanted.counts, strict=True))
        assert moved <= (4 if dtype == torch.float32 else 0.05 * sum(wanted.counts))


def train(folder: Path, device: str, dtype: torch.dtype) -> Run:
    """Trains four steps on the same data; the metrics run under a check that forbids waits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3)).to(device, dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with TbxLoop(model, optimizer, FULL, log_dir=folder, log_every=1, max_grad_norm=0.5) as loop:
        for step in range(4):
            made = torch.Generator().manual_seed(step)
            x = torch.randn(8, 16, generator=made).to(device, dtype)
            labels = torch.randint(0, 3, (8,), generator=made).to(device)
            with no_waiting() if device == "cuda" else nullcontext():
                logits = model(x)  # activation hooks run in the forward pass
                loss = nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            with no_waiting() if device == "cuda" else nullcontext():
                loop.before_clip()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            with no_waiting() if device == "cuda" else nullcontext():
                optimizer.step()
                optimizer.zero_grad()
                loop.end_step(loss=loss, samples=8, outputs=logits, labels=labels)
    return Run(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_training_metrics_without_host_sync(tmp_path: Path, dtype: torch.dtype) -> None:
    found, expected = train(tmp_path / "cuda", "cuda", dtype), train(tmp_path / "cpu", "cpu", dtype)
    ours = ("perf/", "memory/")
    tags = {tag for tag in expected.scalars if not tag.startswith(ours)}
    assert tags == {tag for tag in found.scalars if not tag.startswith(ours)}
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    for tag in tags:
        assert found.steps(tag) == expected.steps(tag), tag
        values, wanted = ([value for _, value in run.scalars[tag]] for run in (found, expected))
        assert values == pytest.approx(wanted, rel=tolerance, abs=1e-5), tag
    assert {tag: list(steps) for tag, steps in found.histograms.items()} == {
        tag: list(steps) for tag, steps in expected.histograms.items()
    }
    for tag, steps in expected.histograms.items():
        for step, wanted in steps.items():
            assert found.histograms[tag][step].num == wanted.num, tag


def test_cuda_host_copy_read_after_device_is_done() -> None:
    packed = torch.zeros(1000, device="cuda")
    with no_waiting():
        torch.cuda._sleep(200_000_000)  # keeps the device busy for a while
        packed.add_(3)
        fetch = HostCopy([packed[0], packed])
        packed.add_(1)  # changed after the copy
    assert fetch.is_pending
    numbers, vector = fetch.read()
    assert numbers == [3.0]
    assert vector == [3.0] * 1000
