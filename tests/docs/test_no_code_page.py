"""Runs the examples of docs/no-code.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tbx_callbacks.autolog.settings import active
from tests.helpers.commands import run
from tests.helpers.runs import ROOT, Run
from tests.helpers.scripts import own_process

PAGE = (ROOT / "docs" / "no-code.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if " run " in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_page_command_finds_script_and_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_package").mkdir()
    for name in ("train.py", "my_package/__init__.py", "my_package/train.py"):
        (tmp_path / name).touch()
    (tmp_path / "my_metrics.yaml").write_text("extends: default\n")
    words = shlex.split(command)
    done = run(*words[words.index("run") :])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_page_report_to_example_gives_callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    from tests.helpers.models import bert

    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(BLOCKS[0], names)
    trainer = Trainer(bert(), names["args"])  # type: ignore[arg-type]
    assert "TbxTrainerCallback" in [type(callback).__name__ for callback in trainer.callback_handler.callbacks]


def test_page_init_example_activates_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with own_process():
        exec(BLOCKS[1], names)
        settings = active()
        assert settings is not None
        assert settings.log_dir == str(tmp_path / "runs" / "exp1")
        names["autolog"].close()  # type: ignore[attr-defined]
        assert active() is None


def test_page_tracker_example_writes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS[2], {})
    assert Run(tmp_path / "runs" / "exp1").scalars == {"train_loss": [(1, 0.5)]}
