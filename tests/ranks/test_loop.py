"""Tests that a loop on several ranks writes the run of one process on the same global batches."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.compare import compare
from tests.helpers.launch import launch
from tests.helpers.runs import Run, files

SCRIPT = Path(__file__).parent / "scripts" / "train_in_loop.py"
ELEMENTS = 50 * 7 + 2 * (7 * 7 + 7) + 7 * 2 + 2
FSDP1 = "['Parameter'] in FullyShardedDataParallel"
PROOFS = {
    ("ddp", 2): "['Parameter'] in DistributedDataParallel",
    ("fsdp", 2): "['DTensor'] in FSDPNet",
    ("fsdp", 4): "['DTensor'] in FSDPNet",
    ("hsdp", 4): "['DTensor'] in FSDPNet",
    ("zero_redundancy", 2): "['Parameter'] in DistributedDataParallel",
    ("tp", 4): "['DTensor'] in FSDPNet",
    ("tp_mixed", 2): "['DTensor', 'Parameter'] in Net",
    ("fsdp1_full_shard", 2): FSDP1,
    ("fsdp1_shard_grad_op", 2): FSDP1,
    ("fsdp1_no_shard", 2): FSDP1,
    ("fsdp1_hybrid_shard", 4): FSDP1,
}
MORE = [("fsdp1_flat", 2), ("fsdp1_full_shard_nan", 2)]
Trained = Callable[[int], tuple[Path, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The folder of the runs and the output, by number of ranks; each is launched once."""

    @cache
    def train(ranks: int) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        strategies = [strategy for strategy, number in (*PROOFS, *MORE) if number == ranks] or ["alone", "alone_nan"]
        return folder, launch(SCRIPT, folder, *strategies, ranks=ranks)

    return train


def elements(printed: str, strategy: str) -> list[int]:
    return [int(found) for found in re.findall(rf"{strategy}: parameters are .*, (\d+) elements here", printed)]


@pytest.mark.parametrize(("strategy", "ranks"), PROOFS)
def test_loop_on_ranks_equals_single_process_run(trained: Trained, strategy: str, ranks: int) -> None:
    folder, printed = trained(ranks)
    # the strategy is on
    assert printed.count(f"{strategy}: parameters are {PROOFS[strategy, ranks]}, ") == ranks, printed
    assert len(files(folder / strategy)) == 1
    tensor_parallel = strategy.startswith("tp")
    compare(Run(folder / strategy), Run(trained(1)[0] / "alone"), without=["activations/"] if tensor_parallel else [])


def test_tensor_parallel_activations_left_out_with_warning(trained: Trained) -> None:
    for ranks, layer in ((2, "head.weight"), (4, "layers.0.weight")):
        printed = f"under tensor parallelism (of {layer}) an output is a part or a copy on each rank"
        assert trained(ranks)[1].count(printed) == 1


def test_zero_redundancy_each_state_on_one_rank(trained: Trained) -> None:
    states = [int(found) for found in re.findall(r"zero_redundancy: states here: (\d+)", trained(2)[1])]
    assert sum(states) == 7  # of 7 parameters
    assert min(states) > 0


@pytest.mark.parametrize("how", ["full_shard", "shard_grad_op"])
def test_fsdp1_parameters_are_sharded(trained: Trained, how: str) -> None:
    here = elements(trained(2)[1], f"fsdp1_{how}")
    assert sum(here) == ELEMENTS
    assert max(here) < ELEMENTS


def test_fsdp1_flat_parameters_left_out_with_warning(trained: Trained) -> None:
    folder, printed = trained(2)
    assert printed.count("FSDP with flat parameters (remedy: FullyShardedDataParallel(..., use_orig_params=True))") == 1
    read = Run(folder / "fsdp1_flat")
    assert not any("norm" in tag or tag.startswith("nonfinite") for tag in read.scalars if "activations" not in tag)
    assert {tag.partition("/")[0] for tag in read.histograms} == {"activations"}
    assert read.steps("train/loss") == [2, 4, 6]


def test_nonfinite_layer_of_another_rank_named(trained: Trained) -> None:
    alone, read = Run(trained(1)[0] / "alone_nan"), Run(trained(2)[0] / "fsdp1_full_shard_nan")
    (printed,) = alone.texts["nonfinite/first_bad"][:1]
    assert "gradients hold NaN or Inf in 1 of 5 groups; backward reached last first" in printed
    assert read.texts["nonfinite/first_bad"][0] == printed
    assert read.at("nonfinite/gradients/last")[2] == alone.at("nonfinite/gradients/last")[2] == 2.0
    assert read.at("nonfinite/found")[2] == 1.0
