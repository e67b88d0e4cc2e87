"""Tests the values around a step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tbx_callbacks.report.loaded_runs import LoadedRun, read
from tbx_callbacks.summary import LIMIT, values_around
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.report_runs import trained


@pytest.fixture(scope="module")
def spiked(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    return read([trained(tmp_path_factory.mktemp("runs") / "run", spike=60)])[0]


def test_around_shows_values_of_series(spiked: LoadedRun) -> None:
    found = values_around(spiked, 60, window=3)
    assert found.steps == (54, 56, 58, 60, 62, 64, 66)
    series = spiked.run.scalars["train/loss"]
    expected = [float(series.values[list(series.steps).index(step)]) for step in found.steps]
    assert list(found.curves["train/loss"]) == expected
    assert found.curves["eval/accuracy"][3] == pytest.approx(0.75)
    assert found.curves["eval/accuracy"][2] is None
    assert [finding.steps[0] for finding in found.findings] == [60]
    text = found.text()
    assert len(text) <= LIMIT
    assert "> 60: 5 | " in text
    assert text.splitlines()[1].startswith("warning TBX-")


def test_around_names_layer_that_jumps(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in range(1, 31):
        values = {f"grad_norm/layer.{n}": 1.0 + 0.01 * step for n in range(5)}
        values["grad_norm/layer.3"] *= 50.0 if step == 20 else 1.0
        values["grad_norm/layer.4"] = math.nan if step == 20 else 1.0
        writer.write(step, values | {"train/loss": 1.0 / step})
    writer.close()
    jumps = values_around(read([tmp_path])[0], 20).jumps
    assert [jump.tag for jump in jumps] == ["grad_norm/layer.4", "grad_norm/layer.3"]
    assert jumps[1].value == pytest.approx(60.0)
    assert jumps[1].usual == pytest.approx(1.0 + 0.01 * 14.5)


def test_around_step_between_points_shows_neighbours(spiked: LoadedRun) -> None:
    assert values_around(spiked, 59, window=1).steps == (58, 60, 62)
    assert values_around(spiked, 120, window=1).steps == (118, 120)


def test_around_curves_chosen_by_regex(spiked: LoadedRun) -> None:
    found = values_around(spiked, 60, window=0, curves="perf/.*")
    assert set(found.curves) == {"perf/step_s", "perf/samples_per_s", "perf/monitor_share"}


@pytest.mark.parametrize(
    ("step", "curves", "words"),
    [
        (121, None, "--step must be a step with values of the run, got 121; its steps are 2 to 120"),
        (60, "(", "--curves must be a regex"),
        (60, "nothing", "--curves must match a tag of the run"),
    ],
)
def test_around_bad_arguments_error_named(spiked: LoadedRun, step: int, curves: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        values_around(spiked, step, curves=curves)
