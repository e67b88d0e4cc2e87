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


def titles(*runs: LoadedRun) -> list[str]:
    return [kind.title for kind in group_runs(runs)]


def test_group_runs_numbered_names_labelled_by_settings() -> None:
    runs = [loaded(f"run{n}", lr=lr, size=8.0, seed=float(n)) for n, lr in enumerate((0.1, 0.05) * 3)]
    assert titles(*runs) == ["lr=0.1 (run0, run2, run4)", "lr=0.05 (run1, run3, run5)"]
    assert [kind.name for kind in group_runs(runs)] == ["lr=0.1", "lr=0.05"]


def test_group_runs_unique_start_is_name() -> None:
    runs = [loaded(f"{kind}-s{n}", lr=lr) for kind, lr in (("a", 0.1), ("b", 0.2)) for n in (1, 2)]
    assert titles(*runs) == ["a-s (2 runs)", "b-s (2 runs)"]


def test_group_runs_start_shared_with_run_unused() -> None:
    runs = [loaded("run1", lr=0.1), loaded("run2", lr=0.2), loaded("run3", lr=0.1)]
    assert titles(*runs) == ["lr=0.1 (run1, run3)", "run2"]


def test_group_runs_many_settings_named_by_members() -> None:
    several = [{f"s{n}": float(n * k) for n in range(1, 5)} for k in (1, 2)]
    runs = [loaded(f"run{n}", **several[n % 2]) for n in range(10)]
    assert titles(*runs) == ["run0, run2, run4, run6 and 1 more", "run1, run3, run5, run7 and 1 more"]


def test_group_runs_nothing_shared_named_by_members() -> None:
    assert titles(*(loaded(name, lr=lr) for name, lr in (("x", 1.0), ("y", 1.0), ("z", 2.0)))) == [
        *("lr=1 (x, y)", "z")
    ]
    assert titles(loaded("x", lr=1.0), loaded("y", lr=1.0)) == ["x, y"]


@pytest.mark.parametrize("name", ["seed", "data_seed", "args/seed", "output_dir", "logging_dir", "run_name"])
def test_is_setting_seeds_and_folders_are_none(name: str) -> None:
    assert not is_setting(name)


@pytest.mark.parametrize("name", ["learning_rate", "seed_everything_mode", "optimizer/lr"])
def test_is_setting_other_names_are(name: str) -> None:
    assert is_setting(name)
