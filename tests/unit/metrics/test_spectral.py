"""Tests singular values of a model's weights in trainings, against torch.linalg.svdvals in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks import ConfigError, TbxLoop, load_config
from tbx_callbacks.metrics.spectral import GroupStableRank, Spectral
from tests.helpers.runs import Run

SET: Any = {"every": 2, "strict": True, "metrics": ["spectral"]}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(30, 12)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.LayerNorm(12)
        self.body = nn.ModuleList([nn.Linear(12, 12) for _ in range(2)])
        self.head = nn.Linear(12, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = self.norm(x + self.conv(x[:, None]).mean(1))
        for layer in self.body:
            x = torch.tanh(layer(x)) + x
        return self.head(x.mean(1))


MODULES = ("embed", "conv", "body.0", "body.1", "head")


def train(folder: Path, model: nn.Module, config: Any = SET, steps: int = 4, **options: Any) -> Run:
    optimizer = options.get("optimizer") or torch.optim.AdamW(model.parameters(), lr=1e-2)
    made = torch.Generator().manual_seed(0)
    with TbxLoop(model, optimizer, config, log_dir=folder, log_every=2) as loop:
        for _ in range(steps):
            ids = torch.randint(0, 30, (4, 5), generator=made)
            loss = nn.functional.cross_entropy(model(ids).float(), ids[:, 0] % 3)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss)
    return Run(folder)


def singular(weight: Tensor) -> Tensor:
    return torch.linalg.svdvals(weight.detach().double().reshape(len(weight), -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("steps", [2, 8])
def test_spectral_matches_decomposition(tmp_path: Path, dtype: torch.dtype, steps: int) -> None:
    model = Net().to(dtype)
    run = train(tmp_path, model, steps=steps)
    assert run.family("spectral/norm") == run.family("spectral/stable_rank") == set(MODULES)  # no LayerNorm
    for name in MODULES:
        values = singular(model.get_submodule(name).weight)
        assert run.at(f"spectral/norm/{name}")[steps] == pytest.approx(float(values[0]), rel=1e-3)
        rank = float(values.square().sum() / values[0] ** 2)
        assert run.at(f"spectral/stable_rank/{name}")[steps] == pytest.approx(rank, rel=2e-3)


def test_spectral_layer_is_block_diagonal(tmp_path: Path) -> None:
    model = Net()
    config = {**SET, "metrics": [{"spectral": {"by": {"body": r"^body\."}}}]}
    run = train(tmp_path, model, config, steps=2)
    blocks = torch.linalg.svdvals(torch.block_diag(*(layer.weight.detach().double() for layer in model.body)))
    assert run.at("spectral/norm/body")[2] == pytest.approx(float(blocks[0]), rel=1e-4)
    assert run.at("spectral/stable_rank/body")[2] == pytest.approx(
        float(blocks.square().sum() / blocks[0] ** 2), rel=1e-4
    )


def test_spectral_frozen_weight_changed_through_data(tmp_path: Path) -> None:
    model = Net()
    model.embed.requires_grad_(False)
    before = float(singular(model.embed.weight)[0])

    def grow(*_: object) -> None:
        model.embed.weight.data.mul_(1.5)  # as the weights of a target network change

    model.register_forward_hook(grow)
    run = train(tmp_path, model, steps=6)
    values = run.at("spectral/norm/embed")
    assert values == {step: pytest.approx(before * 1.5**step, rel=1e-4) for step in (2, 4, 6)}


def test_spectral_zero_weight_norm_zero_no_rank(tmp_path: Path) -> None:
    model = Net()
    nn.init.zeros_(model.head.weight)
    run = train(tmp_path, model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    assert run.at("spectral/norm/head") == {2: 0.0, 4: 0.0}
    assert "spectral/stable_rank/head" not in run.scalars


def test_spectral_nan_weight_written_as_nan(tmp_path: Path) -> None:
    model = Net()
    model.unused = nn.Linear(4, 4)
    nn.init.constant_(model.unused.weight, float("nan"))
    run = train(tmp_path, model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    assert run.at("spectral/norm/unused")[2] != run.at("spectral/norm/unused")[2]
    assert run.at("spectral/norm/conv")[2] == pytest.approx(float(singular(model.conv.weight)[0]), rel=1e-4)


def test_spectral_tied_weights_once(tmp_path: Path) -> None:
    model = Net()
    model.body[1].weight = model.body[0].weight
    assert train(tmp_path, model).family("spectral/norm") == set(MODULES) - {"body.1"}


def test_spectral_own_cadence(tmp_path: Path) -> None:
    config = {**SET, "metrics": [{"spectral": {"every": 3}}, "weight_norm"]}
    run = train(tmp_path, Net(), config, steps=6)
    assert run.steps("spectral/norm/head") == [3, 6]
    assert run.steps("weight_norm/head") == [2, 4, 6]


def test_spectral_same_numbers_whatever_the_seed(tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        model = Net()
        torch.manual_seed(seed)
        found.append(train(tmp_path / str(seed), model).scalars)
    assert found[0] == found[1]


def test_spectral_training_bit_identical(tmp_path: Path) -> None:
    ends = []
    for config in (SET, {"metrics": ["loss"]}):
        model = Net()
        torch.manual_seed(7)
        train(tmp_path / str(len(ends)), model, config)
        ends.append((model.state_dict(), torch.get_rng_state()))
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_spectral_replaced_module_starts_again(tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=2) as loop:
        for step in range(4):
            if step == 2:
                model.head = nn.Linear(12, 7)
                optimizer.add_param_group({"params": list(model.head.parameters())})
            model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
            optimizer.step()
            loop.end_step()
    assert Run(tmp_path).at("spectral/norm/head")[4] == pytest.approx(float(singular(model.head.weight)[0]), rel=1e-4)


@pytest.mark.parametrize("options", [{"iterations": 0}, {"first": 1.5}, {"first": True}, {"iterations": "many"}])
def test_spectral_bad_option_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        load_config({"metrics": [{"spectral": options}]})
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got"):
        Spectral(**{name: value})


def test_group_stable_rank_of_zero_left_out() -> None:
    assert GroupStableRank(0.0, 0.0, 0.0).result((0.0,), (0.0, 0.0)) is None


@pytest.mark.parametrize("start", ["zeros", "anew", "swapped"])
@pytest.mark.parametrize("size", [48, 200])
def test_spectral_weight_set_anew_right_or_left_out(tmp_path: Path, start: str, size: int) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(size, size))
    if start == "zeros":
        nn.init.zeros_(model[0].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    exact = {}
    with TbxLoop(model, optimizer, {**SET, "every": 1}, log_dir=tmp_path) as loop:
        for step in range(1, 7):
            if step == 3:
                nn.init.normal_(model[0].weight)
            if step == 5 and start == "swapped":
                model[0].weight.data.copy_(model[0].weight.data.flip(0, 1))
            exact[step] = float(singular(model[0].weight)[0])
            model(torch.zeros(1, size)).sum().backward()
            optimizer.step()
            loop.end_step()
    found = Run(tmp_path).at("spectral/norm/0")
    assert {step: found[step] for step in found} == {step: pytest.approx(exact[step], rel=3e-3) for step in found}
    missing = {"zeros": set(), "anew": {3}, "swapped": {3, 5}}[start]
    assert set(exact) - set(found) == missing
    assert set(Run(tmp_path).at("spectral/stable_rank/0")) == set(found) - ({1, 2} if start == "zeros" else set())
