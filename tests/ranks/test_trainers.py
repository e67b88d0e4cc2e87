"""Tests that two ranks under the HF Trainer or Lightning write the run of one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.compare import compare
from tests.helpers.launch import launch
from tests.helpers.runs import Run, files

SCRIPT = Path(__file__).parent / "scripts" / "train_with_trainers.py"
PROOFS = {
    "hf-ddp": "hf-ddp: parameters are ['Parameter'] in DistributedDataParallel",
    "hf-fsdp": "hf-fsdp: parameters are ['DTensor'] in FSDPNet",
    "hf-fsdp1": "hf-fsdp1: parameters are ['Parameter'] in FullyShardedDataParallel",
    "lightning-ddp": "lightning-ddp: parameters are ['Parameter'] in DDPStrategy",
    "lightning-fsdp2": "lightning-fsdp2: parameters are ['DTensor'] in ModelParallelStrategy",
}
Trained = Callable[[int], tuple[Path, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The folder of the runs and the output, by number of ranks; each is launched once."""

    @cache
    def train(ranks: int) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        return folder, launch(
            SCRIPT,
            folder,
            *([*PROOFS, "hf-fsdp1-flat", "lightning-own-tag"] if ranks > 1 else ["hf", "lightning"]),
            ranks=ranks,
        )

    return train


@pytest.mark.parametrize("strategy", PROOFS)
def test_trainer_on_ranks_equals_single_process_run(trained: Trained, strategy: str) -> None:
    folder, printed = trained(2)
    assert printed.count(PROOFS[strategy]) == 2, printed  # the strategy is on
    assert len(files(folder / strategy)) == 1
    alone = Run(trained(1)[0] / strategy.partition("-")[0])
    assert alone.steps("train/accuracy") == alone.steps("train/aux_loss") == [2, 4]
    compare(Run(folder / strategy), alone)
    if strategy.endswith("ddp"):
        for kind in ("weights", "optimizer_state"):
            assert Run(folder / strategy).scalars[f"replicas/{kind}/total"] == [(2, 0.0), (4, 0.0)]


def test_huggingface_fsdp1_flat_parameters_left_out_with_warning(trained: Trained) -> None:
    folder, printed = trained(2)
    assert printed.count("hf-fsdp1-flat: parameters are ['flat'] in FullyShardedDataParallel") == 2
    assert printed.count("FSDP with flat parameters (remedy: FullyShardedDataParallel(..., use_orig_params=True))") == 1
    read = Run(folder / "hf-fsdp1-flat")
    assert not any(tag.startswith(("grad_norm/", "weight_norm/", "nonfinite")) for tag in read.scalars)
    assert {tag.partition("/")[0] for tag in read.histograms} == {"activations"}
    assert read.steps("train/loss") == [2, 4]


def test_metric_tag_logged_by_module_left_to_module(trained: Trained) -> None:
    folder, printed = trained(2)
    assert "lost contact with other ranks" not in printed
    read = Run(folder / "lightning-own-tag")
    assert read.steps("grad_norm/total") == read.steps("train/loss") == [2, 4, 6, 8]
    assert read.scalars["train/accuracy"][-1] == (8, 0.5)
