"""Tests the gradient's noise scale on two ranks, against the formulas of the paper in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.launch import launch
from tests.helpers.runs import Run, module_at

SCRIPT = Path(__file__).parent / "scripts" / "train_gradient_noise.py"
RANKS = 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs")
    return folder, launch(SCRIPT, folder, ranks=RANKS)


def expected(accumulate: int) -> dict[int, float]:
    script = module_at(SCRIPT)
    model = script.model().double()
    scales = {}
    for step in range(script.STEPS):
        flat = []
        for number in range(accumulate):
            for rank in range(RANKS):
                inputs, labels = script.batch(step, number, rank)
                loss = nn.functional.cross_entropy(model(inputs.double()), labels)
                flat.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]))
        small, big = script.SIZE, script.SIZE * len(flat)
        of_small = torch.stack(flat).square().sum(1).mean()
        of_big = torch.stack(flat).mean(0).square().sum()
        signal, noise = (big * of_big - small * of_small) / (big - small), (of_small - of_big) / (1 / small - 1 / big)
        if signal > 0:
            scales[step + 1] = float(noise / signal)
    return scales


@pytest.mark.parametrize("accumulate", [1, 2])
def test_noise_scale_of_ddp_ranks_exact(trained: tuple[Path, str], accumulate: int) -> None:
    read = Run(trained[0] / f"ddp-{accumulate}")
    assert read.at("gradient_noise/scale") == pytest.approx(expected(accumulate), rel=1e-4)
    assert set(read.at("gradient_noise/batch_size").values()) == {4.0 * RANKS * accumulate}


def test_noise_scale_of_sharded_gradients_left_out(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    assert "gradient_noise/scale" not in Run(folder / "alone-2").scalars
    for way in ("fsdp", "hsdp", "tp"):
        assert "gradient_noise/scale" not in Run(folder / f"{way}-2").scalars
        own = printed.partition(f"training {way}-2")[2].partition("training ")[0]
        assert own.count("gradient_noise") <= 1
    assert printed.count("gradient_noise: left out, because ranks hold parts of the gradients") == 3
