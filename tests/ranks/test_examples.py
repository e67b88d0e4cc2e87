"""Tests that the rows of two ranks are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks.runs.examples import ExampleTable, files_in, read_examples
from tests.helpers.launch import launch
from tests.helpers.runs import Run, files

SCRIPT = Path(__file__).parent / "scripts" / "train_examples.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of the runs of one process and of two ranks."""
    alone, both = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("both")
    launch(SCRIPT, alone)
    printed = launch(SCRIPT, both, "several", ranks=2)
    assert "not recorded" not in printed
    return alone, both


def rows_of(folder: Path) -> dict[str, tuple[float, float, float, int]]:
    table = read_examples(folder)
    assert isinstance(table, ExampleTable)
    assert not table.left_out
    numbers = zip(table.losses, table.confidence, table.variability, table.seen, strict=True)
    return dict(zip(table.keys, numbers, strict=True))


@pytest.mark.parametrize("name", ["loop", "resumed"])
def test_examples_of_ranks_are_those_of_one_process(trained: tuple[Path, Path], name: str) -> None:
    alone, both = (rows_of(folder / name) for folder in trained)
    assert alone.keys() == both.keys() == set(map(str, range(20)))
    for key, numbers in both.items():
        assert numbers[3] == 3
        assert numbers == pytest.approx(alone[key], rel=1e-4, abs=1e-5)
    assert list(files_in(str(trained[1] / name))) == [0, 1]
    assert len(files(trained[1] / name)) == len(files(trained[0] / name))


def test_examples_groups_merged_over_ranks(trained: tuple[Path, Path]) -> None:
    alone, both = (Run(folder / "loop") for folder in trained)
    assert both.family("examples/loss") == {"0", "1", "2"}
    for tag, series in alone.scalars.items():
        assert both.scalars[tag] == [(step, pytest.approx(value, rel=1e-5)) for step, value in series], tag


def test_examples_of_trainer_each_row_once(trained: tuple[Path, Path]) -> None:
    for folder in trained:
        rows = rows_of(folder / "trainer")
        assert len(rows) == 32
        assert {numbers[3] for numbers in rows.values()} == {2}
