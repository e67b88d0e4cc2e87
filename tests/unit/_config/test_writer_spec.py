"""Tests the writers of a metric set."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks import ConfigError, load_config
from tbx_callbacks._config.json_schema import json_schema
from tbx_callbacks._config.metric_set import Config
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.outside_package import install

PATH = "my_pkg.writers.Lines"


@pytest.fixture(autouse=True)
def _outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, {"tbx_callbacks.writers": {"lines": "my_pkg.writers:Lines"}})


def load(*writers: Any) -> Config:
    return load_config({"metrics": ["loss"], "writers": list(writers)})


def test_writers_built_with_folder_and_options(tmp_path: Path) -> None:
    config = load("tensorboard", {"lines": {"sep": ";"}}, {PATH: {"path": "other.txt"}})
    board, lines, other = (spec.build(str(tmp_path)) for spec in config.writers)
    assert isinstance(board, TensorBoardWriter)
    assert board.log_dir == str(tmp_path)
    for writer in (lines, other):
        writer.write(3, {"train/loss": 1.0})
        writer.flush()
        writer.close()
    assert (tmp_path / "lines.txt").read_text() == "3;['train/loss']\n"
    assert (tmp_path / "other.txt").read_text() == "3,['train/loss']\n"
    assert pickle.loads(pickle.dumps(config)) == config


def test_writers_default_is_tensorboard_alone() -> None:
    (spec,) = load_config({"metrics": ["loss"]}).writers
    assert (spec.name, spec.cls, spec.options) == ("tensorboard", TensorBoardWriter, {})
    assert [spec.name for spec in load("lines").writers] == ["lines"]


MISTAKES: list[tuple[list[Any], str]] = [
    ([], " must be a list of at least one writer, got []; leave it out to write for TensorBoard"),
    (
        ["linez"],
        "[0] must name a known writer, got 'linez'; did you mean 'lines'?"
        " known writers: tensorboard, json_lines, lines",
    ),
    ([3], "[0] must name a known writer, got 3"),
    (["tensorboard", "tensorboard"], " must differ in their options, but two are tensorboard; remove one"),
    (["tensorboard", {"tensorboard": {"flush_secs": 3}}], " must differ in their options, but two are tensorboard"),
    ([PATH, PATH], f" must differ in their options, but two are {PATH}; remove one"),
    (
        [{"lines": {"pth": "x"}}],
        "[0].lines.pth must be a known option, got 'pth'; did you mean 'path'? known options: p",
    ),
    (
        [{"lines": {"log_dir": "x"}}],
        "[0].lines.log_dir must be a known option, got 'log_dir'; known options: path, sep",
    ),
    ([{"lines": {3: "x"}}], "[0].lines.3 must be a known option, got 3"),
    ([{"lines": 3}], "[0].lines must be a mapping of options, got 3"),
    ([{"lines": {}, "tensorboard": {}}], "[0] must be a name or one name with its options, got 2 keys (lines, tensorb"),
    (["my_pkg.writers.NeedsPath"], "[0].my_pkg.writers.NeedsPath must fit NeedsPath(log_dir, path), got {}: missing a"),
    (
        ["my_pkg.writers.Nothing"],
        "[0] must name a writer that can be used, got 'my_pkg.writers.Nothing': it must define",
    ),
]


@pytest.mark.parametrize(("writers", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_writers_mistake_names_place(writers: list[Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(*writers)
    assert str(raised.value).startswith(f"a mapping: writers{message}")


def test_writers_no_list_refused() -> None:
    with pytest.raises(ConfigError, match="writers must be a list of at least one writer, got 'lines'"):
        load_config({"metrics": ["loss"], "writers": "lines"})


def test_schema_accepts_writers() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    good: list[Any] = ["tensorboard", "lines", PATH, {"lines": {"path": "x"}}, {PATH: {"path": "x"}}, {"lines": None}]
    bad = ["linez", {"linez": {}}, {"lines": 3}, 3, {}]
    assert [entry for entry in good if not validator.is_valid({"writers": [entry]})] == []
    assert [entry for entry in bad if validator.is_valid({"writers": [entry]})] == []
    assert not validator.is_valid({"writers": []})
