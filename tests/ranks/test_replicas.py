"""Tests that ranks notice copies that differ, within one due step, and that healthy trainings give no finding."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tbx_callbacks.rules import Finding, diagnose
from tbx_callbacks.runs import read_run
from tests.helpers.launch import launch
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "train_replicas.py"
DUE = [2, 4, 6, 8]
COMPARED = ("weights", "optimizer_state")
HEALTHY = {
    "ddp": COMPARED,
    "ddp_accumulation": COMPARED,
    "ddp_mixed_precision": COMPARED,
    "ddp_half": COMPARED,
    "ddp_momentum": COMPARED,
    "ddp_frozen": COMPARED,
    "ddp_batch_norm": COMPARED,
    "ddp_sparse": COMPARED,
    "ddp_two_optimizers": COMPARED,
    "ddp_resumed": COMPARED,
    "ddp_zero1": ("weights",),  # each rank keeps the state of its own share
    "averaged_by_hand": COMPARED,
    "own_experts": COMPARED,
    "excluded_experts": COMPARED,
    "hsdp": COMPARED,
    "tensor_parallel": COMPARED,
    "fsdp2": (),  # no rank has a copy of another rank's shard
}
"""The comparisons that each training writes."""
FAULTS = {
    "never_reduced": ("weights", {"inner", "norm", "outer"}, 2),
    "forgotten_sync": ("weights", {"inner", "norm", "outer"}, 6),
    "zeroed_reduction": ("weights", {"norm"}, 6),
    "one_bit": ("weights", {"outer"}, 6),
    "one_bit_half": ("weights", {"outer"}, 6),
    "swapped_weights": ("weights", {"outer"}, 6),
    "other_checkpoint": ("weights", {"inner", "outer"}, 2),
    "other_checkpoint_by_hand": ("weights", {"inner", "outer"}, 2),
    "other_state": ("optimizer_state", {"norm"}, 6),
    "unreduced_norm": ("weights", {"norm"}, 6),
    "hsdp_one_bit": ("weights", {"outer"}, 6),
}
"""What differs, in which layers, and the due step that first tells it."""
NOTES = {"own_statistics": ("buffers", {"norm"}), "stages": ("unmatched", {"inner", "norm", "outer"})}
Trained = Callable[[int], tuple[Path, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The folder of the runs and the output, by number of ranks; each is launched once."""

    @cache
    def train(ranks: int) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        names = {
            1: ["alone"],
            2: [*HEALTHY, *FAULTS, *NOTES],
            4: ["ddp", "hsdp", "hsdp_one_bit", "hsdp_two_ranks", "never_reduced"],
        }
        return folder, launch(SCRIPT, folder, *names[ranks], ranks=ranks)

    return train


def findings(folder: Path) -> list[Finding]:
    return [finding for finding in diagnose(read_run(str(folder))).findings if finding.id == "replicas_differ"]


def printed(output: str, name: str) -> str:
    """The output of rank 0 in a training."""
    return output.partition(f"<{name}>")[2].partition(f"</{name}>")[0]


@pytest.mark.parametrize("name", HEALTHY)
def test_replicas_healthy_training_zeros_and_silence(trained: Trained, name: str) -> None:
    folder, output = trained(2)
    run = Run(folder / name)
    assert run.family("replicas") == {f"{kind}/total" for kind in HEALTHY[name]}
    for kind in HEALTHY[name]:
        assert run.scalars[f"replicas/{kind}/total"] == [(step, 0.0) for step in DUE]
    assert not findings(folder / name)
    assert "replicas_differ" not in printed(output, name)


@pytest.mark.parametrize("name", FAULTS)
def test_replicas_fault_named_at_next_due_step(trained: Trained, name: str) -> None:
    folder, output = trained(2)
    kind, layers, step = FAULTS[name]
    run = Run(folder / name)
    totals = dict(run.scalars[f"replicas/{kind}/total"])
    assert totals == {due: float(len(layers)) if due >= step else 0.0 for due in DUE}
    assert {tag.rpartition("/")[2] for tag in run.scalars if tag.startswith(f"replicas/{kind}/")} == {*layers, "total"}
    (finding,) = findings(folder / name)
    assert (finding.severity, finding.steps) == ("error", (step,))
    assert finding.tags[0] == f"replicas/{kind}/total"
    assert all(layer in finding.means for layer in layers)
    assert ", on rank 1." in finding.means
    assert printed(output, name).count("error TBX-DIST-001 replicas_differ since step") == 1  # live, on rank 0


@pytest.mark.parametrize("name", NOTES)
def test_replicas_parts_meant_to_differ_note(trained: Trained, name: str) -> None:
    folder, _ = trained(2)
    kind, layers = NOTES[name]
    (finding,) = findings(folder / name)
    assert finding.severity == "note"
    assert set(finding.tags) == {f"replicas/{kind}/{layer}" for layer in {*layers, "total"}}


def test_replicas_one_rank_nothing_written(trained: Trained) -> None:
    folder, _ = trained(1)
    run = Run(folder / "alone")
    assert run.steps("weight_norm/inner") == DUE
    assert not run.family("replicas")


@pytest.mark.thorough
def test_replicas_four_ranks_healthy_silent(trained: Trained) -> None:
    folder, output = trained(4)
    for name in ("ddp", "hsdp"):
        assert Run(folder / name).scalars["replicas/weights/total"] == [(step, 0.0) for step in DUE]
        assert not findings(folder / name)
    assert "replicas_differ" not in printed(output, "ddp") + printed(output, "hsdp")


@pytest.mark.thorough
def test_replicas_hsdp_single_rank_named(trained: Trained) -> None:
    folder, _ = trained(4)
    (finding,) = findings(folder / "hsdp_one_bit")
    assert finding.severity == "error"
    assert finding.numbers == {"layers": 1.0, "lowest_rank": 3.0, "highest_rank": 3.0}


@pytest.mark.thorough
def test_replicas_hsdp_several_ranks_layers_named(trained: Trained) -> None:
    folder, _ = trained(4)
    (finding,) = findings(folder / "hsdp_two_ranks")
    assert finding.severity == "error"
    assert finding.tags == ("replicas/weights/total", "replicas/weights/outer")


@pytest.mark.thorough
def test_replicas_all_ranks_differ_bounds_named(trained: Trained) -> None:
    folder, _ = trained(4)
    (finding,) = findings(folder / "never_reduced")
    assert finding.numbers["layers"] == 3.0
    assert 1.0 <= finding.numbers["lowest_rank"] <= finding.numbers["highest_rank"] <= 3.0
