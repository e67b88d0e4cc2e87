"""Tests that the reader gives values, leaves them out with a word, or says that a file cannot be read."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event

from tbx_callbacks.runs.reader import UnreadableError, find_runs, read_run
from tbx_callbacks.runs.series import Run
from tests.helpers.hostile_events import STEPS, TIMES, event, hostile_file, record, write_records

NAME = "events.out.tfevents.1.x"


def check_run(run: Run) -> None:
    """Asserts what every reader of a `Run` relies on."""
    for points in (*run.scalars.values(), *run.histograms.values(), *run.texts.values()):
        assert len(points.steps) == len(points.wall_times) > 0
        assert (np.diff(points.steps.astype(object)) > 0).all()
    for series in run.scalars.values():
        assert series.values.dtype == np.float64
        assert len(series.values) == len(series.steps)
    for histograms in run.histograms.values():
        assert all(np.isfinite(buckets).all() and buckets.shape[1:] == (3,) for buckets in histograms.buckets)
    assert all(isinstance(word, str) for texts in run.texts.values() for word in texts.values)
    assert all(isinstance(value, (bool, float, str)) for value in run.hparams.values())
    assert all(isinstance(image, bytes) for image in run.images.values())
    assert all(len(sentence) < 400 for sentence in run.left_out)


def read_mutations(folder: Path, seeds: range) -> dict[str, int]:
    """Reads changed files; returns how many were read, read with something left out, and refused."""
    ends = dict.fromkeys(("whole", "partly", "refused"), 0)
    for seed in seeds:
        write_records(folder / NAME, hostile_file(seed))
        try:
            run = read_run(folder)
        except UnreadableError:
            ends["refused"] += 1
            continue
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        check_run(run)
        ends["partly" if run.left_out or run.unread else "whole"] += 1
    return ends


def test_reader_mutated_files_sample(tmp_path: Path) -> None:
    ends = read_mutations(tmp_path, range(200))
    assert ends["whole"] > 20
    assert ends["partly"] > 50


@pytest.mark.slow
@pytest.mark.thorough
def test_reader_mutated_files_end(tmp_path: Path) -> None:
    ends = read_mutations(tmp_path, range(1_000, 3_000))
    assert min(ends.values()) > 2


@pytest.mark.parametrize("step", STEPS)
def test_reader_absurd_step_keeps_value(tmp_path: Path, step: int) -> None:
    write_records(tmp_path / NAME, event(step, tag="a", simple_value=0.5))
    series = read_run(tmp_path).scalars["a"]
    assert (series.steps.tolist(), series.values.tolist()) == ([step], [0.5])


@pytest.mark.parametrize("wall_time", TIMES)
def test_reader_absurd_time_kept(tmp_path: Path, wall_time: float) -> None:
    write_records(tmp_path / NAME, event(1, wall_time, tag="a", simple_value=0.5))
    (time,) = read_run(tmp_path).scalars["a"].wall_times
    assert time == wall_time or (math.isnan(time) and math.isnan(wall_time))


@pytest.mark.parametrize("tag", ["", "\x1b[31m", "a" * 100_000, "../../x", "<b>", "x\0y", "\u202e", "é"])
def test_reader_odd_tag_is_a_tag(tmp_path: Path, tag: str) -> None:
    write_records(tmp_path / NAME, event(1, tag=tag, simple_value=0.5))
    assert list(read_run(tmp_path).scalars) == [tag]


def test_reader_bad_event_between_good_ones(tmp_path: Path) -> None:
    good = [event(step, tag="a", simple_value=step) for step in (1, 2)]
    no_utf8 = event(3, tag="abc", simple_value=1.0)
    broken = no_utf8.replace(b"abc", b"a\xff\xfe")[12:-4]
    with pytest.raises(Exception, match="pars"):
        Event.FromString(broken)
    write_records(tmp_path / NAME, good[0], record(broken), record(b"\xff" * 9), good[1])
    run = read_run(tmp_path)
    assert run.scalars["a"].steps.tolist() == [1, 2]
    assert run.left_out == (f"an event of '{NAME}' and 1 more are left out: it is no event that TensorBoard knows",)
    assert run.unread == {}


def make_odd_files(folder: Path) -> dict[str, str]:
    """Makes what only looks like event files; returns the sentence about each."""
    os.mkfifo(folder / "events.out.tfevents.1.pipe")
    (folder / "events.out.tfevents.1.folder").mkdir()
    (folder / "events.out.tfevents.1.link").symlink_to("nowhere")
    (folder / "events.out.tfevents.1.empty").write_bytes(b"")
    (folder / "events.out.tfevents.1.text").write_text("no event at all, but long enough for a header")
    (folder / "events.out.tfevents.1.\udcff\x1b").write_bytes(b"abc")
    return {
        "pipe": "it is a pipe, a socket or a device, which is not opened",
        "folder": "it is a folder",
        "link": "it is a link to nothing",
        "empty": "it is empty",
        "text": "it holds no complete event, so it is damaged or no event file",
        "\udcff\x1b": "it holds no complete event",
    }


def test_reader_odd_files_named_others_read(tmp_path: Path) -> None:
    reasons = make_odd_files(tmp_path)
    with pytest.raises(UnreadableError, match=r"must hold TensorBoard events, but those in .* and 3 more"):
        read_run(tmp_path)
    write_records(tmp_path / "events.out.tfevents.2.good", event(1, tag="a", simple_value=1.0))
    run = read_run(tmp_path)
    assert list(run.scalars) == ["a"]
    assert len(run.left_out) == len(reasons)
    for name, reason in reasons.items():
        assert [text for text in run.left_out if f"tfevents.1.{name}: {reason}" in text], name


def test_reader_unreadable_permission_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_records(tmp_path / NAME, event(1, tag="a", simple_value=1.0)).chmod(0)
    write_records(tmp_path / "events.out.tfevents.2.good", event(1, tag="b", simple_value=1.0))
    tmp_path.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        run = read_run(".")
    finally:
        os.seteuid(user)
    assert list(run.scalars) == ["b"]
    assert run.left_out == (f"{NAME}: Permission denied (left out)",)


def test_find_runs_links_and_locked_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_records(tmp_path / "real" / "a" / NAME, event(tag="a", simple_value=1.0))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to("../real")
    (tmp_path / "runs" / "circle").symlink_to(".")
    (tmp_path / "runs" / "dangling").symlink_to("nowhere")
    (tmp_path / "runs" / "locked").mkdir(mode=0)
    tmp_path.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with caplog.at_level(logging.WARNING):
            assert list(find_runs("runs")) == ["linked/a"]
    finally:
        os.seteuid(user)
    assert [record.getMessage() for record in caplog.records] == ["folder 'runs/locked' is left out: Permission denied"]


def test_find_runs_link_beside_its_folder_once(tmp_path: Path) -> None:
    write_records(tmp_path / "deep" / "er" / "run5" / NAME, event(tag="a", simple_value=1.0))
    (tmp_path / "a_latest").symlink_to("deep/er/run5")
    (tmp_path / "z_latest").symlink_to("deep/er")
    (tmp_path / "deep" / "up").symlink_to("..")
    assert list(find_runs(tmp_path)) == ["deep/er/run5"]
    assert list(find_runs(tmp_path / "a_latest")) == ["."]
    assert list(find_runs(tmp_path / "z_latest")) == ["run5"]


def test_reader_many_odd_files_listed_in_part(tmp_path: Path) -> None:
    write_records(tmp_path / NAME, event(1, tag="a", simple_value=1.0))
    for number in range(50):
        (tmp_path / f"events.out.tfevents.2.{number}").write_bytes(b"")
    left_out = read_run(tmp_path).left_out
    assert len(left_out) == 21
    assert left_out[-1] == "30 more files (left out)"


@pytest.mark.parametrize("path", ["", "a\0b", "n" * 5000, "\ud800", "~nosuchuser"])
def test_find_runs_impossible_path_one_line(path: str) -> None:
    for read in (find_runs, read_run):
        with pytest.raises(UnreadableError) as raised:
            read(path)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 400
