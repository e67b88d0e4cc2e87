"""Tests copies of a model that part during the training: their numbers are left out, and all others stay right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.launch import EndedRank, run_ranks
from tests.helpers.runs import Run
from tests.ranks.scripts.train_copies import Net, data

SCRIPT = Path(__file__).parent / "scripts" / "train_copies.py"
SCENARIOS = ("wrapped", "forgotten", "same_data", "expert", "late", "owners")
OF_PARAMETERS = ("grad_norm", "weight_norm", "update_norm", "optimizer_state", "grads")


class Trainings:
    """The output of each rank and the run of rank 0, by scenario."""

    def __init__(self, folder: Path, ended: list[EndedRank]) -> None:
        self.folder, self.ended = folder, ended

    def printed(self, scenario: str) -> list[str]:
        found = [re.search(f"<{scenario}>(.*)</{scenario}>", rank.printed, re.DOTALL) for rank in self.ended]
        return [match[1].strip() for match in found if match]

    def run(self, scenario: str) -> Run:
        return Run(self.folder / scenario)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    folder = tmp_path_factory.mktemp("copies")
    ended = run_ranks(SCRIPT, folder, *SCENARIOS, seconds=100)
    assert [rank.code for rank in ended] == [0, 0], [rank.printed[-3000:] for rank in ended]
    return Trainings(folder, ended)


def tags(run: Run, *families: str) -> list[str]:
    return sorted(tag for tag in (*run.scalars, *run.histograms) if tag.startswith(families))


def oracle(*, synchronized: tuple[str, ...]) -> dict[str, list[float]]:
    """Gradient norms in float64 of one process that trains both ranks' copies."""
    nets = [Net().double() for _ in range(2)]
    adams = [torch.optim.Adam(net.parameters(), lr=0.01) for net in nets]
    norms: dict[str, list[float]] = {}
    for step in range(1, 5):
        for rank, net in enumerate(nets):
            net.zero_grad()
            net(data(rank)(step).double()).square().mean().backward()
        for name, first in nets[0].named_parameters():
            second = dict(nets[1].named_parameters())[name]
            if name.partition(".")[0] in synchronized:
                assert first.grad is not None
                assert second.grad is not None
                first.grad = second.grad = (first.grad + second.grad) / 2
            norms.setdefault(name.partition(".")[0], []).append(_norm(first))
        for adam in adams:
            adam.step()
    return norms


def _norm(parameter: nn.Parameter) -> float:
    assert parameter.grad is not None
    return float(parameter.grad.norm())


def test_wrapped_copies_equal_float64(trainings: Trainings) -> None:
    assert trainings.printed("wrapped") == ["", ""]
    run, right = trainings.run("wrapped"), oracle(synchronized=("shared", "expert"))
    for layer in ("shared", "expert"):
        assert [value for _, value in run.scalars[f"grad_norm/{layer}"]] == pytest.approx(right[layer], rel=1e-5)
    assert {tag.partition("/")[0] for tag in tags(run, *OF_PARAMETERS)} == set(OF_PARAMETERS)


def test_forgotten_wrapper_no_parameter_numbers(trainings: Trainings) -> None:
    first, *others = trainings.printed("forgotten")
    assert first.count("are left out: ranks hold different copies; wrap the model in DistributedDataParallel") == 1
    assert len(first.splitlines()) == 1
    assert others == [""]
    run = trainings.run("forgotten")
    assert not tags(run, *OF_PARAMETERS)
    assert run.steps("train/loss") == [1, 2, 3, 4]  # the mean of both ranks


def test_equal_copies_without_wrapper_kept(trainings: Trainings) -> None:
    assert trainings.printed("same_data") == ["", ""]
    assert trainings.run("same_data").steps("grad_norm/total") == [1, 2, 3, 4]


def test_expert_of_each_rank_other_layers_right(trainings: Trainings) -> None:
    first, _ = trainings.printed("expert")
    assert first.startswith("numbers of expert.weight are left out: ")
    assert len(first.splitlines()) == 1
    run, right = trainings.run("expert"), oracle(synchronized=("shared",))
    assert [value for _, value in run.scalars["grad_norm/shared"]] == pytest.approx(right["shared"], rel=1e-5)
    for family in ("grad_norm", "weight_norm", "update_norm", "grads"):
        assert tags(run, family) == [f"{family}/shared"]
    assert tags(run, "optimizer_state")
    assert not [tag for tag in tags(run, "optimizer_state") if tag.endswith("expert")]


def test_copies_that_part_later_left_out_at_once(trainings: Trainings) -> None:
    first, _ = trainings.printed("late")
    assert len(first.splitlines()) == 1
    run = trainings.run("late")
    for tag in ("grad_norm/total", "weight_norm/shared", "update_norm/expert"):
        assert run.steps(tag) == [1, 2]


def test_state_of_one_rank_left_out_with_warning(trainings: Trainings) -> None:
    first, _ = trainings.printed("owners")
    assert first.count("optimizer_state of shared.weight, expert.weight is left out: ") == 1
    run = trainings.run("owners")
    assert not tags(run, "optimizer_state")
    assert run.steps("grad_norm/total") == run.steps("update_norm/expert") == [1, 2, 3, 4]
