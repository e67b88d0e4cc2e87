"""Tests that ranks under DeepSpeed ZeRO write the run of one process, with the HF Trainer and in a loop.

DeepSpeed refuses float16 on a CPU, and Lightning refuses DeepSpeed there.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.compare import compare
from tests.helpers.launch import launch
from tests.helpers.models import bert
from tests.helpers.runs import Run, files

SCRIPT = Path(__file__).parent / "scripts" / "train_with_deepspeed.py"
KINDS = {stage: f"DeepSpeedZeroOptimizer{'_Stage3' if stage == 3 else ''}" for stage in (1, 2, 3)}
PROOFS = {
    **{f"zero{stage}": kind for stage, kind in KINDS.items()},
    **{f"loop-zero{stage}": kind for stage, kind in KINDS.items() if stage > 1},
}
Trained = Callable[[int], tuple[Path, str]]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: make test-deepspeed"
)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The folder of the runs and the output, by number of ranks; each is launched once."""

    @cache
    def train(ranks: int) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        strategies = [*PROOFS, "zero2_offload"] if ranks > 1 else ["alone", "loop-alone"]
        # DeepSpeed compiles when it is first used in an environment: a minute or two.
        return folder, launch(SCRIPT, folder, *strategies, ranks=ranks, seconds=280)

    return train


@pytest.mark.parametrize("strategy", PROOFS)
def test_deepspeed_run_equals_single_process_run(trained: Trained, strategy: str) -> None:
    folder, printed = trained(2)
    found = re.findall(
        rf"^{strategy}: DeepSpeedEngine with {PROOFS[strategy]}, (\d+) elements here", printed, re.MULTILINE
    )
    assert len(found) == 2, printed  # the strategy is on
    whole = sum(p.numel() for n, p in bert().named_parameters() if "position_embeddings" not in n)
    assert all(whole / 2 <= int(part) < whole / 2 + 100 for part in found)  # includes padding
    assert len(files(folder / strategy)) == 1
    in_loop = strategy.startswith("loop")
    alone = Run(trained(1)[0] / ("loop-alone" if in_loop else "alone"))
    compare(Run(folder / strategy), alone, least=1e-6)


def test_deepspeed_offloaded_optimizer_left_out_with_warning(trained: Trained) -> None:
    folder, printed = trained(2)
    assert printed.count("DeepSpeed ZeRO with an offloaded optimizer (remedy: remove offload_optimizer from") == 1
    read = Run(folder / "zero2_offload")
    families = {tag.partition("/")[0] for tag in read.scalars}
    assert not families & {"grad_norm", "grad_norm_clipped", "weight_norm", "update_norm", "update_ratio", "nonfinite"}
    assert {tag.partition("/")[0] for tag in read.histograms} == {"activations"}
    assert read.steps("train/loss") == [2, 4, 6]
