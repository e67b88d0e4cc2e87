"""Tests the folders of runs: one run is one folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tbx_callbacks.runs import folders


def hold_run(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1").touch()
    return str(folder)


def test_unused_folder_numbered_while_runs_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert folders.unused(str(tmp_path / "run")) == str(tmp_path / "run")
    first = hold_run(tmp_path / "run")
    hold_run(tmp_path / "run_2")
    assert folders.unused(first + "/") == folders.unused(first) == f"{first}_3"
    with caplog.at_level(logging.WARNING):
        assert folders.beside(str(tmp_path / "other")) == str(tmp_path / "other")
        assert not caplog.records
        assert folders.beside(first) == f"{first}_3"
    assert f"{first}_3" in caplog.text


def test_holds_run_only_with_event_files(tmp_path: Path) -> None:
    assert not folders.holds_run(str(tmp_path))
    assert folders.holds_run(hold_run(tmp_path / "[a]*"))


def test_fresh_folder_creates_nothing(tmp_path: Path) -> None:
    fresh = Path(folders.fresh_folder(str(tmp_path)))
    assert fresh.parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_fresh_folder_avoids_name_of_other_writers(tmp_path: Path) -> None:
    fresh = Path(folders.fresh_folder(str(tmp_path), lambda folder: folders.is_default_name(Path(folder).name)))
    assert folders.is_default_name(fresh.name.removesuffix("_2"))
    assert not folders.is_default_name(fresh.name)
    assert not folders.is_default_name("run_1")


def test_beside_folder_of_other_writer_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = str(tmp_path / "run")
    assert folders.beside(wanted, lambda folder: folder == wanted) == f"{wanted}_2"
    assert caplog.messages == [
        f"{wanted} is the folder of another writer of this training; writing this run to {wanted}_2"
    ]


@pytest.mark.parametrize(
    ("folder", "belongs"),
    [
        ("run", True),
        ("run/", True),
        ("run_2", True),
        ("run/trial_1", True),
        ("run_2/a", True),
        ("run2", False),
        ("r", False),
    ],
)
def test_belongs_folder_beside_or_below(tmp_path: Path, folder: str, belongs: bool) -> None:
    assert folders.belongs(f"{tmp_path}/{folder}", str(tmp_path / "run")) is belongs


def test_belongs_remote_folder_not_made_absolute() -> None:
    assert folders.belongs("s3://b/run_2", "s3://b/run")
    assert not folders.belongs("s3://c/run", "s3://b/run")
    assert [folders.is_remote(folder) for folder in ("s3://b/run", "runs/s3")] == [True, False]


def test_second_series_only_beside_its_run() -> None:
    runs = ["runs/a", "runs/a/by_samples"]
    assert folders.by_axis("runs/a/", "samples") == "runs/a/by_samples"
    assert folders.is_second_series("runs/a/by_samples", runs)
    assert not folders.is_second_series("runs/a/by_hand", runs)
    assert not folders.is_second_series("runs/b/by_samples", runs)
