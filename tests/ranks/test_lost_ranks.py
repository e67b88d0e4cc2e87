"""Tests ranks that differ or are lost: the training ends as without the callback, and no wrong value is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.launch import EndedRank, run_ranks
from tests.helpers.limits import limit
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "train_unevenly.py"
ALIVE = (
    *("plain", "raises", "raises_on_the_writer", "no_gradients", "stages", "namesakes", "frozen_later", "uneven"),
    *("uneven_writer", "joined", "evaluates", "never", "never_sharded", "late", "behind_a_barrier", "stuck", "breaks"),
    "twice",
)
LOST = "cross-rank metrics disabled for the rest of this run: lost contact with other ranks"
APART = "cross-rank metrics disabled: some ranks did not join in time"


class Trainings:
    """The output of the ranks and the run of rank 0, for each training."""

    def __init__(self, folder: Path, ended: list[EndedRank]) -> None:
        self.folder, self.ended = folder, ended

    def printed(self, scenario: str) -> list[str]:
        found = [re.search(f"<{scenario}>(.*)</{scenario}>", rank.printed, re.DOTALL) for rank in self.ended]
        assert all(found), [rank.printed[-3000:] for rank in self.ended]
        return [match[1] for match in found if match]

    def seconds(self, scenario: str) -> list[float]:
        return [float(printed.split("seconds ")[1]) for printed in self.printed(scenario)]

    def run(self, scenario: str) -> Run:
        return Run(self.folder / scenario)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    folder = tmp_path_factory.mktemp("trainings")
    ended = run_ranks(SCRIPT, folder, *ALIVE, seconds=150)
    assert [rank.code for rank in ended] == [0, 0], [rank.printed[-3000:] for rank in ended]
    return Trainings(folder, ended)


def silent(printed: list[str]) -> bool:
    return not any(line for rank in printed for line in rank.splitlines() if line and not line.startswith("seconds"))


def test_equal_ranks_no_warning(trainings: Trainings) -> None:
    assert silent(trainings.printed("plain"))
    run = trainings.run("plain")
    assert run.scalars["probe/ranks"] == [(2, 2.0), (4, 2.0), (6, 2.0)]
    assert run.steps("train/loss") == [2, 4, 6]


@pytest.mark.parametrize(("scenario", "rank"), [("raises", 1), ("raises_on_the_writer", 0)])
def test_metric_failure_on_one_rank_left_out(trainings: Trainings, scenario: str, rank: int) -> None:
    printed = trainings.printed(scenario)
    assert printed[rank].count("metric probe failed at step 4") == 1
    assert silent([printed[1 - rank]])
    run, plain = trainings.run(scenario), trainings.run("plain")
    assert run.scalars["probe/ranks"] == [(2, 2.0)]
    for tag in ("grad_norm/total", "weight_norm/head", "train/loss"):
        assert [value for _, value in run.scalars[tag]] == pytest.approx([v for _, v in plain.scalars[tag]])
    assert list(run.histograms["weights/head"]) == [1, 2, 4, 6]


def test_copy_without_gradients_left_out(trainings: Trainings) -> None:
    first, *others = trainings.printed("no_gradients")  # only rank 0 trains
    assert first.count("numbers of body.weight, body.bias, head.weight and 1 more are left out") == 1
    assert silent(others)
    assert "grad_norm/total" not in trainings.run("no_gradients").scalars


def test_pipeline_stages_counted_and_named_in_warning(trainings: Trainings) -> None:
    printed = trainings.printed("stages")
    assert "count only where they exist: embed.weight, embed.bias, body.weight and 3 more" in printed[0]
    assert silent([printed[1]])
    run = trainings.run("stages")
    assert {"weight_norm/embed", "weight_norm/body", "weight_norm/head"} <= set(run.scalars)
    assert set(run.histograms) == {"weights/embed", "weights/body", "weights/head"}
    assert run.steps("train/loss") == [2, 4, 6]  # only the last stage has a loss
    assert run.scalars["probe/ranks"] == [(2, 2.0), (4, 2.0), (6, 2.0)]


def test_different_tensors_of_one_name_left_out(trainings: Trainings) -> None:
    first, *others = trainings.printed("namesakes")
    assert first.count("plain tensors that differ between ranks (body.weight, body.bias") == 1
    assert silent(others)
    run = trainings.run("namesakes")
    assert not [tag for tag in run.scalars if tag.startswith(("grad_norm", "weight_norm", "nonfinite"))]
    assert not run.histograms
    assert run.steps("train/loss") == [2, 4, 6]


def test_layer_frozen_during_training_same_points(trainings: Trainings) -> None:
    run = trainings.run("frozen_later")
    assert run.steps("grad_norm/total") == [2, 4, 6]
    assert run.at("grad_norm/total")[2] == pytest.approx(trainings.run("plain").at("grad_norm/total")[2])


@pytest.mark.parametrize(("scenario", "warning_rank"), [("uneven", 0), ("uneven_writer", 1), ("joined", 0)])
def test_unequal_number_of_steps_ends_merging(trainings: Trainings, scenario: str, warning_rank: int) -> None:
    printed = trainings.printed(scenario)
    assert printed[warning_rank].count(LOST) == 1
    assert "from step 6 to the end" in printed[warning_rank]
    assert silent([printed[1 - warning_rank]])
    assert max(trainings.seconds(scenario)) < limit(10)
    run = trainings.run(scenario)
    assert run.steps("grad_norm/total") == [2, 4]
    assert run.scalars["probe/ranks"] == [(2, 2.0), (4, 2.0)]
    # Rank 0 still writes its own metrics.
    assert run.steps("train/learning_rate") == ([2, 4] if scenario == "uneven_writer" else [2, 4, 6, 8, 10])


def test_evaluation_on_rank_0_alone_same_points(trainings: Trainings) -> None:
    assert silent(trainings.printed("evaluates"))
    run = trainings.run("evaluates")
    assert run.scalars["eval/accuracy"] == [(3, 0.5), (4, 0.5)]
    assert run.scalars["grad_norm/total"] == trainings.run("plain").scalars["grad_norm/total"]
    assert run.scalars["probe/ranks"] == [(2, 2.0), (4, 2.0), (6, 2.0)]


def test_rank_without_callback_leaves_out_shared_metrics(trainings: Trainings) -> None:
    printed = trainings.printed("never")
    assert f"{APART} (rank 1" in printed[0]
    assert "these metrics would cover its share of the data only; disabled: nonfinite, throughput" in printed[0]
    run = trainings.run("never")
    assert run.steps("grad_norm/total") == [2, 4, 6]  # replicas: right on each
    assert not {"train/loss", "perf/samples_per_s", "nonfinite/found"} & set(run.scalars)
    sharded = trainings.run("never_sharded")
    assert not [tag for tag in sharded.scalars if tag.startswith(("grad_norm", "weight_norm"))]
    assert not sharded.histograms


def test_rank_with_late_callback_joins(trainings: Trainings) -> None:
    assert silent(trainings.printed("late"))  # also after the earlier trainings in which one rank had no loop
    assert trainings.run("late").scalars["probe/ranks"] == [(2, 2.0), (4, 2.0), (6, 2.0)]
    printed = trainings.printed("behind_a_barrier")
    assert all(APART in rank for rank in printed)
    assert max(trainings.seconds("behind_a_barrier")) < limit(20)


def test_end_with_stuck_rank_waits_within_timeout(trainings: Trainings) -> None:
    printed, seconds = trainings.printed("stuck"), trainings.seconds("stuck")
    assert "values of the last steps are lost: other ranks did not answer within 1 s at the end" in printed[0]
    assert seconds[0] < seconds[1]  # rank 1 sleeps for 8 s
    run = trainings.run("stuck")
    assert run.steps("grad_norm/total") == [2, 4]
    assert run.steps("train/learning_rate") == [2, 4, 6]


def test_recorder_failure_on_one_rank_ends_merging(trainings: Trainings) -> None:
    printed = trainings.printed("breaks")
    assert printed[0].count(LOST) == 1
    assert "measuring failed at step 4" in printed[1]
    assert max(trainings.seconds("breaks")) < limit(10)
    assert trainings.run("breaks").steps("grad_norm/total") == [2]
    assert trainings.run("breaks").steps("train/learning_rate") == [2, 4, 6]


def test_second_training_in_process_own_points(trainings: Trainings) -> None:
    assert trainings.run("twice").scalars["probe/ranks"] == [(2, 2.0)]
    assert trainings.run("twice/second").scalars["probe/ranks"] == [(2, 2.0), (4, 2.0)]


def test_killed_rank_keeps_merged_points(tmp_path: Path) -> None:
    writer, other = run_ranks(SCRIPT, tmp_path, "killed", seconds=60)
    assert other.code == -9
    assert writer.code == 1, writer.printed[-3000:]  # by the training's own collective
    assert "RuntimeError" in writer.printed
    run = Run(tmp_path / "killed")
    assert run.scalars["probe/ranks"] == [(2, 2.0), (4, 2.0)]
    assert list(run.histograms["weights/head"]) == [1, 2, 4]


def test_exception_on_one_rank_keeps_merged_points(tmp_path: Path) -> None:
    writer, other = run_ranks(SCRIPT, tmp_path, "error", seconds=60)
    assert other.code == 1
    assert "a fault of the user's" in other.printed
    assert writer.code == 1, writer.printed[-3000:]
    assert Run(tmp_path / "error").scalars["probe/ranks"] == [(2, 2.0), (4, 2.0)]


@pytest.mark.parametrize("scenario", ["destroyed", "open_at_exit"])
def test_process_end_without_close_keeps_last_step(tmp_path: Path, scenario: str) -> None:
    for ended in run_ranks(SCRIPT, tmp_path, scenario, seconds=60):
        assert ended.code == 0, ended.printed[-3000:]
        assert "Traceback" not in ended.printed
    assert Run(tmp_path / scenario).scalars["probe/ranks"] == [(2, 2.0), (4, 2.0), (6, 2.0)]
