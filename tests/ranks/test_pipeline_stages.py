"""Tests pipeline stages: each layer's values are written; wrong ones are left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.launch import EndedRank, run_ranks
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "train_stages.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[EndedRank]]:
    folder = tmp_path_factory.mktemp("stages")
    ended = run_ranks(SCRIPT, folder, seconds=90)
    assert [rank.code for rank in ended] == [0, 0], [rank.printed[-3000:] for rank in ended]
    return folder, ended


@pytest.fixture
def printed(trained: tuple[Path, list[EndedRank]]) -> Callable[[str], list[str]]:
    def of(scenario: str) -> list[str]:
        return [rank.printed.split(f"<{scenario}>\n")[1].split(f"</{scenario}>")[0] for rank in trained[1]]

    return of


@pytest.fixture
def run(trained: tuple[Path, list[EndedRank]]) -> Callable[[str], Run]:
    return lambda scenario: Run(trained[0] / scenario)


def test_regex_matching_on_another_stage_accepted(
    printed: Callable[[str], list[str]], run: Callable[[str], Run]
) -> None:
    first, second = printed("somewhere")
    assert "count only where they exist: embed.weight, embed.bias, body.weight and 3 more" in first
    assert len(first.splitlines()) == 1
    assert not second
    read = run("somewhere")
    assert read.steps("grad_norm/total") == read.steps("weight_norm/first") == read.steps("weight_norm/last") == [2, 4]
    assert set(read.histograms) == {"weights/body", "weights/head", "activations/embed"}
    assert read.histograms["activations/embed"][2].num == 2 * 4 * 5
    assert read.at("nonfinite/found") == {2: 0.0, 4: 0.0}


def test_activations_of_layers_with_one_name_left_out(
    printed: Callable[[str], list[str]], run: Callable[[str], Run]
) -> None:
    first, second = printed("namesakes")
    assert "plain tensors that differ between ranks (body.weight, body.bias)" in first
    assert "disabled metrics: activations, weight_norm" in first
    assert not second
    assert {tag.partition("/")[0] for tag in run("namesakes").scalars} == {"train"}
    assert not run("namesakes").histograms


def test_regex_matching_nowhere_refused_on_all_ranks(printed: Callable[[str], list[str]]) -> None:
    for rank, near in enumerate(("embed", "head")):
        lines = [line for line in printed("nowhere")[rank].splitlines() if line.startswith("refused: ")]
        assert lines[0].startswith("refused: grad_norm.include must match at least one parameter's name, got 'haed'")
        assert lines[1].startswith("refused: grad_norm.by.last must match at least one parameter's name, got 'haed'")
        assert lines[2].startswith("refused: activations.modules must match at least one module's name, got 'haed'")
        assert all(near in line for line in lines[::2])


def test_user_scalars_of_rank_0_alone_written(printed: Callable[[str], list[str]], run: Callable[[str], Run]) -> None:
    assert printed("own") == ["", ""]
    read = run("own")
    assert read.at("own/step") == {3: 2.0, 6: 5.0, 8: 7.5}
    assert read.steps("weight_norm/body") == read.steps("grad_norm/body") == [4, 8]
    assert read.steps("train/loss") == [2, 4, 6, 8]


def test_activations_changed_in_place_histogram_left_out(
    printed: Callable[[str], list[str]], run: Callable[[str], Run]
) -> None:
    for rank in printed("in_place"):
        assert rank.count("activations/one is skipped: the module's output was changed in place") == 1
        assert len(rank.splitlines()) == 1
    read = run("in_place")
    assert set(read.histograms) == {"activations/two"}
    assert read.steps("activations/one/norm") == read.steps("activations/two/norm") == [2, 4]
    assert read.at("activations/one/zero_share") == {2: 0.0, 4: 0.0}  # from before it was changed


def test_gradients_of_partial_sums_left_out_with_warning(
    printed: Callable[[str], list[str]], run: Callable[[str], Run]
) -> None:
    first, second = printed("unsummed")
    skipped = "gradient metrics of norm.weight, norm.bias are skipped: the gradients are DTensors of partial sums"
    assert first.count(skipped) == 1
    assert "before the step, set p.grad = p.grad.redistribute(placements=p.placements)" in first
    assert "under tensor parallelism (of norm.weight) an output is a part or a copy" in first
    assert "partial sums" in second
    left_out, whole = run("unsummed"), run("summed")
    assert "partial sums" not in "".join(printed("summed"))
    assert whole.family("grad_norm") == {"total", "norm", "up", "down"}
    assert left_out.family("grad_norm") == {"up", "down"}
    assert set(left_out.histograms) == {"grads/up", "grads/down"} == {*whole.histograms} - {"grads/norm"}
    assert "nonfinite/found" not in left_out.scalars
    for tag in ("grad_norm/up", "weight_norm/norm", "update_norm/norm", "update_norm/down"):
        assert left_out.scalars[tag] == [(step, pytest.approx(value)) for step, value in whole.scalars[tag]], tag
