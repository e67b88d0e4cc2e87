"""Tests process groups that come late, differ, end, or hold some of the ranks only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.helpers.launch import EndedRank, run_ranks
from tests.helpers.limits import limit
from tests.helpers.runs import Run
from tests.ranks.scripts.train_groups import batch, net

SCRIPT = Path(__file__).parent / "scripts" / "train_groups.py"
TWO = (
    "usual",
    "again",
    "late",
    "other_sets",
    "other_log_every",
    "own_logs",
    "no_network",
    "uneven_batches",
    "late_unnamed",
)


class Trainings:
    """The output of each rank and the runs, by scenario."""

    def __init__(self, folder: Path, ended: list[EndedRank]) -> None:
        assert [rank.code for rank in ended] == [0] * len(ended), [rank.printed[-3000:] for rank in ended]
        self.folder, self.ended = folder, ended

    def printed(self, scenario: str) -> list[str]:
        found = [re.search(f"<{scenario}>(.*)</{scenario}>", rank.printed, re.DOTALL) for rank in self.ended]
        return [match[1].strip() for match in found if match]

    def run(self, name: str) -> Run:
        return Run(self.folder / name)

    @property
    def runs(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_dir()}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    folder = tmp_path_factory.mktemp("groups")
    return Trainings(folder, run_ranks(SCRIPT, folder, *TWO, seconds=120))


def test_groups_one_after_the_other_same_run(trainings: Trainings) -> None:
    assert not any(trainings.printed("again"))
    usual = trainings.run("usual").scalars
    for trial in (0, 1, 3):
        run = trainings.run(f"again{trial}").scalars
        assert run["train/loss"] == usual["train/loss"]
        assert run["grad_norm/total"] == usual["grad_norm/total"]
    assert {"alone0", "alone1"} <= trainings.runs


def test_loop_before_the_group_merged_from_then(trainings: Trainings) -> None:
    first, second = trainings.printed("late")
    assert first == (
        "metrics of step 1 are not written: the process group came after this loop; create the loop after"
        " init_process_group"
    )
    assert not second
    run, usual = trainings.run("late").scalars, trainings.run("usual").scalars
    assert run["train/loss"] == usual["train/loss"]
    assert run["grad_norm/total"] == usual["grad_norm/total"][1:]


def test_unnamed_ranks_one_writer_after_the_group(trainings: Trainings) -> None:
    _, second = trainings.printed("late_unnamed")
    assert "unnamed1 is not written any more: the process group came after this loop" in second
    run, usual = trainings.run("unnamed0").scalars, [value for _, value in trainings.run("usual").scalars["train/loss"]]
    means = [(usual[0] + usual[1]) / 2, (usual[2] + usual[3]) / 2]
    assert [value for _, value in run["train/loss"]] == pytest.approx(means, rel=1e-6)
    assert "train/loss" not in trainings.run("unnamed1").scalars


@pytest.mark.parametrize("scenario", ["other_sets", "other_log_every"])
def test_other_metrics_by_rank_named_in_warning(trainings: Trainings, scenario: str) -> None:
    first = trainings.printed(scenario)[0]
    assert first.count("cross-rank metrics disabled: ranks have different metric sets or cadences; pass the same") == 1
    assert "train/loss" not in trainings.run(scenario).scalars


def test_logs_of_rank_0_alone_keep_merging(trainings: Trainings) -> None:
    assert not any(trainings.printed("own_logs"))
    run = trainings.run("own_logs")
    assert run.steps("grad_norm/total") == [2, 4, 6, 8]
    assert run.steps("train/also") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert run.steps("train/of_rank_0") == [2]


def test_batches_of_other_sizes_same_loss(trainings: Trainings) -> None:
    assert not any(trainings.printed("uneven_batches"))
    model = net().double()
    with torch.no_grad():
        losses = [
            float(model(torch.cat([batch(number, rank) for rank in range(2)]).double()).square().mean())
            for number in range(1, 9)
        ]
    right = [sum(losses[start : start + 4]) / 4 for start in (0, 4)]
    run = trainings.run("uneven_batches")
    assert [value for _, value in run.scalars["train/loss"]] == pytest.approx(right, rel=1e-6)
    assert run.steps("train/loss") == [2, 4]


def test_rank_without_network_training_goes_on(trainings: Trainings) -> None:
    for printed in trainings.printed("no_network"):
        assert "cross-rank metrics disabled: rank 1 cannot open a connection" in printed
        assert "nosuch0" in printed
        assert float(re.findall(r"made in ([\d.]+)", printed)[0]) < limit(3)
    assert trainings.run("no_network").steps("grad_norm/total") == [1, 2, 3, 4]


def test_groups_of_some_ranks_own_runs(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path, run_ranks(SCRIPT, tmp_path, "pairs", "subgroup", number=4, seconds=60))
    assert not any(trainings.printed("pairs") + trainings.printed("subgroup"))
    assert trainings.runs == {"pair0", "pair1", "subgroup"}
    for name in trainings.runs:
        assert trainings.run(name).steps("train/loss") == trainings.run(name).steps("grad_norm/total") == [1, 2, 3, 4]
    first, second = (trainings.run(f"pair{n}").scalars["train/loss"] for n in range(2))
    assert first != second
