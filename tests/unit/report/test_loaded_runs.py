"""Tests samples and seconds at each step of a loaded run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tbx_callbacks.report.loaded_runs import clock, read
from tbx_callbacks.runs.reader import read_run
from tests.helpers.report_runs import trained


def test_clock_samples_and_seconds_of_steps(tmp_path: Path) -> None:
    run = read_run(trained(tmp_path / "run"))
    known = clock(run)
    assert known.samples is not None
    assert known.samples.tolist() == (8 * known.steps).tolist()
    assert (np.diff(known.seconds) >= 0).all()


def test_read_folder_without_runs_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    assert [one.name for one in read([tmp_path / "empty", trained(tmp_path / "run")])] == ["run"]
    assert caplog.messages[0].startswith("a folder is left out: LOGDIR must hold logs of a run")
