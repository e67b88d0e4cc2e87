"""Tests comparisons of whole runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tbx_callbacks.comparison import compare
from tbx_callbacks.metrics.host_values import HParams, Text
from tbx_callbacks.report.loaded_runs import read
from tbx_callbacks.writers.tensorboard import TensorBoardWriter


def train(folder: Path, *, lr: float = 1e-3, seed: int = 0, worse_from: int = 10**9, torch: str = "2.9") -> Path:
    """A run of 120 steps whose loss is 0.3 higher from a step on."""
    writer, noise = TensorBoardWriter(folder), np.random.default_rng(seed)
    writer.write(0, {"_hparams_/session_start_info": HParams({"lr": lr, "seed": float(seed), "batch_size": 8.0})})
    environment = {"torch": torch, "python": "3.11", "host": folder.name}
    writer.write(0, {"environment": Text(f"```json\n{json.dumps(environment)}\n```")})
    for step in range(1, 121):
        loss = 0.2 + math.exp(-step / 30) + noise.normal(0, 0.02) + 0.3 * (step >= worse_from)
        values = {"train/loss": loss, "train/learning_rate": lr * (1 - step / 120), "extra/x": 1.0}
        if step % 10 == 0:
            values |= {"eval/loss": loss, "eval/accuracy": 0.9 - 0.2 * (step >= worse_from)}
        writer.write(step, values)
    writer.close()
    return folder


def test_compare_two_runs_names_differences(tmp_path: Path) -> None:
    folders = [train(tmp_path / "a"), train(tmp_path / "b", lr=2e-3, seed=1, worse_from=61, torch="2.10")]
    result = compare(read(folders))
    assert [(row.name, row.values) for row in result.settings] == [("lr", ("0.001", "0.002"))]
    assert [(row.name, row.values) for row in result.versions] == [("torch", ("2.9", "2.10"))]
    curves = {curve.tag: curve for curve in result.curves}
    assert {"train/loss", "eval/loss", "eval/accuracy", "train/learning_rate"} == set(curves)
    (parting,) = curves["train/loss"].partings
    assert parting is not None
    assert parting.since is not None
    assert abs(parting.since - 61) <= 8
    assert curves["eval/accuracy"].ends[0] == (pytest.approx(0.9), pytest.approx(math.nan, nan_ok=True))
    assert curves["eval/accuracy"].partings[0].since == 70  # type: ignore[union-attr]
    assert not result.notes


def test_compare_same_run_is_equal(tmp_path: Path) -> None:
    result = compare(read([train(tmp_path / "a"), train(tmp_path / "b")]))
    assert not result.settings
    assert not result.versions
    assert all(parting is not None and parting.is_equal for curve in result.curves for parting in curve.partings)


def test_kinds_of_other_sizes_equal_settings_left_out(tmp_path: Path) -> None:
    folders = [train(tmp_path / "base-1"), train(tmp_path / "base-2", seed=1), train(tmp_path / "warm", lr=2e-3)]
    result = compare(read(folders))
    assert [len(kind.runs) for kind in result.kinds] == [2, 1]
    assert [row.name for row in result.settings] == ["lr"]
    assert not result.versions
    assert not any("batch" in note for note in result.notes)


def test_compare_seeds_give_spread(tmp_path: Path) -> None:
    for seed in range(3):
        train(tmp_path / f"base-seed{seed}", seed=seed)
        train(tmp_path / f"warm-seed{seed}", seed=10 + seed, lr=2e-3, worse_from=61)
    result = compare(read([tmp_path]))
    assert [(kind.name, len(kind.runs)) for kind in result.kinds] == [("base", 3), ("warm", 3)]
    (loss,) = (curve for curve in result.curves if curve.tag == "train/loss")
    last = [run.run.scalars["train/loss"].values[-1] for run in result.kinds[1].runs]
    assert loss.ends[1] == (pytest.approx(np.mean(last)), pytest.approx(np.std(last, ddof=1)))
    assert loss.partings[0] is not None
    assert abs((loss.partings[0].since or 0) - 61) <= 8


def test_compare_seeds_alone_compared_as_runs(tmp_path: Path) -> None:
    result = compare(read([train(tmp_path / f"seed{seed}", seed=seed) for seed in range(2)]))
    assert [kind.name for kind in result.kinds] == ["seed0", "seed1"]
    (loss,) = (curve for curve in result.curves if curve.tag == "train/loss")
    assert loss.partings[0] is not None
    assert loss.partings[0].since is None


def test_compare_logs_without_settings_say_so(tmp_path: Path) -> None:
    for name, factor in (("a", 1.0), ("b", 1.0)):
        lines = [{"step": step, "loss": factor / step} for step in range(1, 20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = compare(read([tmp_path]))
    assert result.notes[0] == "The logs of a, b hold no hyper-parameters; differences of settings are unknown."
    assert result.curves[0].tag == "loss"


def test_compare_other_batch_size_noted(tmp_path: Path) -> None:
    for name, size in (("a", 8.0), ("b", 16.0)):
        writer = TensorBoardWriter(tmp_path / name)
        writer.write(0, {"_hparams_/session_start_info": HParams({"per_device_train_batch_size": size})})
        writer.write(1, {"train/loss": 1.0})
        writer.close()
    result = compare(read([tmp_path]))
    assert "per_device_train_batch_size differs" in result.notes[0]


def test_compare_bad_arguments_error_named(tmp_path: Path) -> None:
    runs = read([train(tmp_path / "a")])
    with pytest.raises(ValueError, match="needs at least two runs, got 1"):
        compare(runs)
    with pytest.raises(ValueError, match="--curves must be a regex"):
        compare([*runs, *runs], curves="(")


def test_compare_further_curves_by_regex(tmp_path: Path) -> None:
    result = compare(read([train(tmp_path / "a"), train(tmp_path / "b")]), curves="extra/.*")
    assert "extra/x" in {curve.tag for curve in result.curves}


def test_compare_curve_of_second_run_alone_named(tmp_path: Path) -> None:
    for name, tags in (("a", ["loss"]), ("b", ["loss", "eval_loss"])):
        lines = [{"step": step, **dict.fromkeys(tags, 1 / step)} for step in range(1, 20 + 5 * (name == "b"))]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = compare(read([tmp_path]))
    (curve,) = (curve for curve in result.curves if curve.tag == "eval_loss")
    assert (curve.ends[0], curve.partings) == (None, (None,))
    assert (
        "The runs end at different steps (a 19, b 24): their last values are those of different steps." in result.notes
    )
