"""Tests the gradients of micro-batches against those that autograd computes one by one, in plain loops."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop
from tbx_callbacks.metrics.context import Microbatches
from tbx_callbacks.metrics.gradient_noise import estimates
from tests.helpers.gradient_noise import exact_noise_scale
from tests.helpers.runs import Run

EXAMPLES = 64


class Tied(nn.Module):
    """Two layers that share one weight, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight
        self.first.bias.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(inputs)))))
        return out


def data() -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(3)
    inputs = torch.randn(EXAMPLES, 6, generator=made)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()


def squares(model: nn.Module, batches: list[tuple[Tensor, Tensor]], weights: list[float]) -> tuple[float, float]:
    """The sum of the squared norms of weighted gradients, and the squared norm of their sum, in float64."""
    copy = Tied().double()
    copy.load_state_dict(model.state_dict())
    parameters = [parameter for parameter in copy.parameters() if parameter.requires_grad]
    flat = []
    for (inputs, labels), weight in zip(batches, weights, strict=True):
        loss = nn.functional.cross_entropy(copy(inputs.double()), labels) * weight
        flat.append(torch.cat([gradient.reshape(-1) for gradient in torch.autograd.grad(loss, parameters)]))
    return sum(float(each.square().sum()) for each in flat), float(torch.stack(flat).sum(0).square().sum())


def train(
    folder: Path,
    sizes: list[int],
    *,
    steps: int = 3,
    change: Callable[[nn.Module, int], None] = lambda model, step: None,
    scaler: Any = None,
    options: dict[str, Any] | None = None,
    pass_samples: bool = True,
    lr: float = 0.0,
) -> tuple[Run, list[tuple[float, float]]]:
    """Trains with micro-batches of these sizes; returns the run and the expected squares of each step."""
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    inputs, labels = data()
    made, expected = torch.Generator().manual_seed(1), []
    metrics = {"every": 1, "metrics": [{"gradient_noise": options or {}}], "strict": True}
    with TbxLoop(model, optimizer, metrics, log_dir=folder, scaler=scaler) as loop:
        for step in range(steps):
            batches = []
            for size in sizes:
                chosen = torch.randint(EXAMPLES, (size,), generator=made)
                batches.append((inputs[chosen], labels[chosen]))
            expected.append(squares(model, batches, [1 / len(sizes)] * len(sizes)))
            for number, (x, y) in enumerate(batches, 1):
                loss = nn.functional.cross_entropy(model(x), y) / len(sizes)
                (loss if scaler is None else scaler.scale(loss)).backward()
                change(model, step)
                if number == len(sizes):
                    if scaler is None:
                        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
                        optimizer.step()
                    else:
                        scaler.step(optimizer)
                        scaler.update()
                    optimizer.zero_grad()
                loop.end_step(samples=len(x) if pass_samples else None)
    return Run(folder), expected


def scale_of(expected: list[tuple[float, float]], sizes: list[int], decay: float) -> list[float]:
    """The noise scales by the formulas of the paper, for equal sizes: appendix A.1, averaged with a decay."""
    small, big = sizes[0], sum(sizes)
    noise = signal = 0.0
    scales = []
    for square, total in expected:
        of_small = square * len(sizes)  # mean of the squared norms of gradients that are not divided
        signal = decay * signal + (1 - decay) * (big * total - small * of_small) / (big - small)
        noise = decay * noise + (1 - decay) * (of_small - total) / (1 / small - 1 / big)
        scales.append(noise / signal)
    return scales


@pytest.mark.parametrize("sizes", [[8, 8], [4, 4, 4, 4], [1] * 16])
def test_noise_scale_equals_formulas_of_paper(tmp_path: Path, sizes: list[int]) -> None:
    read, expected = train(tmp_path / "run", sizes, steps=4, options={"decay": 0.5})
    wanted = {step: scale for step, scale in enumerate(scale_of(expected, sizes, 0.5), 1) if scale > 0}
    found = read.at("gradient_noise/scale")
    assert {step: found[step] for step in wanted} == pytest.approx(wanted, rel=1e-4)
    assert set(read.at("gradient_noise/batch_size").values()) == {float(sum(sizes))}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[4] * 4, [8, 8, 8, 2]], ids=["equal", "unequal"])
def test_noise_scale_of_200_draws_near_exact(tmp_path: Path, sizes: list[int]) -> None:
    read, _ = train(tmp_path / "run", sizes, steps=200, options={"decay": 0.9999})
    torch.manual_seed(0)
    model = Tied()
    inputs, labels = data()

    def loss(copy: nn.Module, index: int) -> Tensor:
        return nn.functional.cross_entropy(copy(inputs[index : index + 1].double()), labels[index : index + 1])

    exact = exact_noise_scale(model, EXAMPLES, loss, frozen=["first.bias"])
    assert read.at("gradient_noise/scale")[200] == pytest.approx(exact, rel=0.2)


def test_noise_scale_with_loss_scale_same(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    scaled, _ = train(tmp_path / "scaled", [4] * 4, steps=6, scaler=scaler)
    plain, _ = train(tmp_path / "plain", [4] * 4, steps=6)
    assert scaler.get_scale() > 1024
    assert scaled.at("gradient_noise/scale") == pytest.approx(plain.at("gradient_noise/scale"), rel=1e-4)


def test_noise_scale_nonfinite_point_left_out(tmp_path: Path) -> None:
    calls = []

    def spoil(model: nn.Module, step: int) -> None:
        calls.append(step)
        if step == 1 and calls.count(1) < 4:
            model.head.weight.grad[0, 0] = torch.nan
        elif step == 1:
            model.head.weight.grad.nan_to_num_()  # before the step: the weights stay finite

    spoilt, _ = train(tmp_path / "spoilt", [4] * 4, steps=4, change=spoil)
    _, expected = train(tmp_path / "plain", [4] * 4, steps=4)
    assert 2 not in spoilt.at("gradient_noise/scale")
    without = scale_of([expected[0], *expected[2:]], [4] * 4, 0.95)
    assert spoilt.at("gradient_noise/scale")[4] == pytest.approx(without[-1], rel=1e-4)


@pytest.mark.parametrize(
    ("sizes", "pass_samples", "reason"),
    [
        ([8], True, "gradient_noise is left out: a step has one micro-batch to compare; accumulate gradients"),
        ([8, 8], False, "gradient_noise is left out: the samples of a micro-batch are unknown; pass samples="),
    ],
)
def test_noise_scale_that_cannot_be_told_warned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sizes: list[int], pass_samples: bool, reason: str
) -> None:
    with caplog.at_level(logging.WARNING):
        read, _ = train(tmp_path / "run", sizes, pass_samples=pass_samples)
    assert not [tag for tag in read.scalars if tag.startswith("gradient_noise")]
    assert [record.getMessage() for record in caplog.records if "gradient_noise" in record.getMessage()] == [
        next(message for message in (record.getMessage() for record in caplog.records) if message.startswith(reason))
    ]


@pytest.mark.parametrize(
    ("windows", "warned"), [([2, 2, 1], 0), ([1, 2, 1], 0), ([1, 1, 2], 1), ([1], 1), ([2, 1, 1], 0)]
)
def test_noise_scale_short_last_window_not_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, windows: list[int], warned: int
) -> None:
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, labels = data()
    with TbxLoop(model, optimizer, {"every": 1, "metrics": ["gradient_noise"]}, log_dir=tmp_path) as loop:
        for number in windows:
            for part in range(number):
                chosen = slice(8 * part, 8 * part + 8)
                nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
                if part == number - 1:
                    optimizer.step()
                    optimizer.zero_grad()
                loop.end_step(samples=8)
    read = Run(tmp_path)
    sizes = read.at("gradient_noise/batch_size") if read.family("gradient_noise") else {}
    assert sizes == {step: 8 * number for step, number in enumerate(windows, 1) if number > 1}
    assert caplog.text.count("gradient_noise is left out") == warned


def test_noise_scale_several_backward_passes_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        caplog.at_level(logging.WARNING),
        TbxLoop(model, optimizer, {"every": 1, "metrics": ["gradient_noise"]}, log_dir=tmp_path / "run") as loop,
    ):
        for number in range(1, 5):
            model(torch.randn(3, 4)).sum().backward()
            model(torch.randn(3, 4)).sum().backward()
            if number % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
            loop.end_step(samples=3)
    assert "gradient_noise/scale" not in Run(tmp_path / "run").scalars
    assert caplog.text.count("a micro-batch has several backward passes; add its losses") == 1


def test_noise_scale_leaves_training_and_hooks_alone(tmp_path: Path) -> None:
    def final(metrics: list[Any]) -> list[Tensor]:
        torch.manual_seed(0)
        model = Tied()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        inputs, labels = data()
        with TbxLoop(model, optimizer, {"every": 2, "metrics": metrics}, log_dir=tmp_path / str(len(metrics))) as loop:
            for number in range(1, 17):
                nn.functional.cross_entropy(model(inputs[number::8]), labels[number::8]).backward()
                if number % 2 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                loop.end_step(samples=8)
        assert not any(parameter._backward_hooks for parameter in model.parameters())
        return [parameter.detach() for parameter in model.parameters()]

    with_it, without = final(["loss", "gradient_noise"]), final(["loss"])
    assert all(map(torch.equal, with_it, without))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("skipped", [1, 2, 3])
def test_noise_scale_skipped_step_not_counted(tmp_path: Path, skipped: int, set_to_none: bool) -> None:
    def train_once(folder: Path, numbers: list[int]) -> Run:
        torch.manual_seed(0)
        model = Tied()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        inputs, labels = data()
        with TbxLoop(model, optimizer, {"every": 1, "metrics": ["gradient_noise"]}, log_dir=folder) as loop:
            for step in range(3):
                for number in numbers:
                    chosen = slice(8 * abs(number) - 8, 8 * abs(number) + step)
                    nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
                    if number == numbers[-1]:
                        optimizer.step()
                    if number == numbers[-1] or number == -skipped:
                        optimizer.zero_grad(set_to_none=set_to_none)
                    loop.end_step(samples=8 + step)
        return Run(folder)

    skips = train_once(tmp_path / "skips", [*range(-1, -skipped - 1, -1), 4, 5, 6])
    plain = train_once(tmp_path / "plain", [4, 5, 6])
    assert skips.at("gradient_noise/batch_size") == plain.at("gradient_noise/batch_size") == {1: 24, 2: 27, 3: 30}
    assert skips.at("gradient_noise/scale") == pytest.approx(plain.at("gradient_noise/scale"), rel=1e-4)
    assert plain.at("gradient_noise/scale")


def test_estimates_of_two_ranks_add_up() -> None:
    sizes = torch.tensor([4.0, 4.0, 4.0, 2.0])
    squares, weights = torch.tensor([0.5, 0.5, 1.0, 1.0]) / 16, torch.tensor([0.1, 0.2, 0.3, 0.4])
    one = Microbatches(squares, torch.tensor(0.5), sizes, weights)
    halves = [
        Microbatches(squares[own] * 4, torch.tensor(0.5), sizes[own], weights[own], ranks=2)
        for own in (slice(0, 2), slice(2, 4))
    ]
    added = [sum(parts) for parts in zip(*(estimates(half) for half in halves), strict=True)]
    assert torch.allclose(torch.stack(added), torch.stack(estimates(one)))  # type: ignore[arg-type]
