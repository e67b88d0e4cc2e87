"""Tests reading the CSV files of Lightning's CSVLogger."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tbx_callbacks.runs.reader import UnreadableError, find_runs, read_run

TABLE = """epoch,step,train_loss,val_loss
0,9,0.9,
0,19,nan,
0,19,,0.7
1,29,0.5,
"""


def write(folder: Path, table: str = TABLE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "metrics.csv"
    file.write_text(table)
    return file


def test_lightning_csv_columns_become_tags(tmp_path: Path) -> None:
    write(tmp_path / "lightning_logs" / "version_0")
    (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").write_text(
        "lr: 0.001\nname: !!python/object/apply:os.system [ls]\nlayers: 2\nuse: true\npath: a/b\n"
    )
    ((name, path),) = find_runs(tmp_path).items()
    assert name == "lightning_logs/version_0"
    run = read_run(path)
    assert run.scalars["train_loss"].steps.tolist() == [9, 19, 29]
    assert math.isnan(run.scalars["train_loss"].values[1])
    assert run.scalars["val_loss"].values.tolist() == [0.7]
    assert run.scalars["epoch"].values.tolist() == [0, 0, 1]
    assert {key: run.hparams[key] for key in ("lr", "layers", "use", "path")} == {
        "lr": 0.001,
        "layers": 2.0,
        "use": True,
        "path": "a/b",
    }
    assert (run.source, run.left_out) == ("metrics.csv", ())


def test_lightning_csv_half_written_row_left_out(tmp_path: Path) -> None:
    whole = "epoch,step,train_loss\n" + "".join(f"0,{step},0.4{step}\n" for step in range(9, 410, 10))
    for cut in range(1, 12):  # a step that is cut off would be a restart, a value that is cut off another value
        run = read_run(write(tmp_path, whole[:-cut]))
        assert run.scalars["train_loss"].steps.tolist() == list(range(9, 400, 10))
        assert run.left_out == ()


def test_lightning_csv_row_of_other_length_named(tmp_path: Path) -> None:
    run = read_run(write(tmp_path, TABLE + "1,39\n1,49,0.4,\n"))
    assert run.scalars["train_loss"].steps.tolist() == [9, 19, 29, 49]
    assert run.left_out == ("line 6 is left out: it has another number of cells than the header",)


def test_lightning_csv_texts_and_steps_named(tmp_path: Path) -> None:
    run = read_run(write(tmp_path, "step,loss,note\n1,0.5,good\n1.5,0.4,\n,0.3,\n1e30,0.3,\nnan,0.3,\n2,0.2,\n"))
    assert run.scalars["loss"].values.tolist() == [0.5, 0.2]
    assert any("column note is left out" in words for words in run.left_out)
    assert any("must be a whole number of at least 0, got '1.5'" in words for words in run.left_out)


KERAS = """epoch,accuracy,loss,train/lr,val_accuracy,val_loss
0,0.5,0.9,0.1,0.4,0.8
1,0.6,0.7,0.1,0.5,0.6
"""


def test_lightning_csv_of_keras_epochs_are_steps(tmp_path: Path) -> None:
    write(tmp_path / "k", KERAS)
    ((_, path),) = find_runs(tmp_path).items()
    run = read_run(path)
    assert set(run.scalars) == {"train/loss", "train/accuracy", "train/lr", "eval/loss", "eval/accuracy"}
    assert run.scalars["eval/loss"].steps.tolist() == [0, 1]
    assert run.scalars["train/loss"].values.tolist() == [0.9, 0.7]
    assert "holds no steps (epochs count as steps), no wall times" in run.source_sentence


def test_lightning_csv_epochs_of_other_names_kept(tmp_path: Path) -> None:
    run = read_run(write(tmp_path, "epoch,train_loss,val_loss\n1,0.5,0.6\n1,0.4,0.5\n0.5,0.3,0.3\n"))
    assert set(run.scalars) == {"train_loss", "val_loss"}
    assert run.scalars["train_loss"].values.tolist() == [0.4]
    assert any("its epoch has another row after it; such a file needs a column step" in out for out in run.left_out)
    assert any("its epoch must be a whole number of at least 0, got '0.5'" in out for out in run.left_out)


def test_lightning_csv_without_numbers_error_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="must have rows with a step and numbers"):
        read_run(write(tmp_path, "step,loss\n"))
