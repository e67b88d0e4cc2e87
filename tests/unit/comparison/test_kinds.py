"""Tests which runs are of a kind."""

from __future__ import annotations

import pytest

from tbx_callbacks.comparison.kinds import group_runs, is_setting
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.rules import diagnose
from tbx_callbacks.runs.series import Run


def loaded(name: str, **hparams: bool | float | str) -> LoadedRun:
    run = Run(hparams=hparams)
    return LoadedRun(name, "#000000", name, run, diagnose(run, {}))


def names(*runs: LoadedRun) -> list[tuple[str, list[str]]]:
    return [(kind.name, [run.name for run in kind.runs]) for kind in group_runs(runs)]


def test_group_runs_seeds_are_one_kind() -> None:
    runs = [loaded(f"{kind}-s{n}", lr=lr, seed=float(n)) for kind, lr in (("a", 0.1), ("b", 0.2)) for n in (1, 2)]
    assert names(*runs) == [("a-s", ["a-s1", "a-s2"]), ("b-s", ["b-s1", "b-s2"])]


def test_group_runs_without_settings_use_names() -> None:
    runs = [loaded(name) for name in ("base/seed_1", "base/seed_2", "warm/seed1", "other", "third2", "third3")]
    assert names(*runs) == [
        ("base", ["base/seed_1", "base/seed_2"]),
        ("warm/seed1", ["warm/seed1"]),
        ("other", ["other"]),
        ("third2", ["third2"]),
        ("third3", ["third3"]),
    ]


@pytest.mark.parametrize("name", ["seed", "data_seed", "args/seed", "output_dir", "logging_dir", "run_name"])
def test_is_setting_seeds_and_folders_are_none(name: str) -> None:
    assert not is_setting(name)


@pytest.mark.parametrize("name", ["learning_rate", "seed_everything_mode", "optimizer/lr"])
def test_is_setting_other_names_are(name: str) -> None:
    assert is_setting(name)
