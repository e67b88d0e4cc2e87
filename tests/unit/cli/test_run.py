"""Tests the command `run` with scripts that import no trainer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tbx_callbacks.autolog.settings import Settings, active
from tbx_callbacks.cli.run import prepare
from tests.helpers.commands import run
from tests.helpers.processes import python
from tests.helpers.scripts import own_process, run_script

NOTHING = "tbx_callbacks: nothing was logged: no Trainer of transformers or Lightning was created"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text(
        "import sys\nprint(sys.argv, 'torch' in sys.modules)\nsys.exit(int(sys.argv[1]))\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run_light_script_says_nothing_logged(folder: Path) -> None:
    done = python("-m", "tbx_callbacks", "run", "--config", "full", "train.py", "0", "--config", "x", "--", "-m")
    assert done.returncode == 0
    assert done.stdout == "['train.py', '0', '--config', 'x', '--', '-m'] False\n"  # torch is not imported for it
    assert done.stderr == f"{NOTHING}; a loop of your own needs TbxLoop\n"
    failed = python("-m", "tbx_callbacks", "run", "train.py", "3")
    assert (failed.returncode, failed.stderr) == (3, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument"),
        (["nowhere.py"], "SCRIPT must be a Python file, got 'nowhere.py', which does not exist"),
        (["-m", "tbx_nowhere"], "MODULE must be importable"),
        (["--config", "ful", "train.py"], "did you mean 'full'"),
        (["--config", "my.yaml", "train.py"], "'my.yaml' does not exist; bundled sets: "),
        (["--config", "broken.yaml", "train.py"], "broken.yaml: line 2, column 1 must be valid YAML"),
        (["--confg", "full", "train.py"], "No such option"),
    ],
)
def test_run_mistakes_end_before_the_script(folder: Path, arguments: list[str], words: str) -> None:
    (folder / "broken.yaml").write_text("metrics: [loss\n")
    done = run("run", *arguments)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())


def test_run_wrong_set_ends_before_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wrong.yaml").write_text("metrics: [grad_norms]\n")
    (folder / "train.py").write_text("import torch\nprint('trained')\n")
    with pytest.raises(SystemExit) as ended:
        run_script("train.py", config="wrong.yaml")
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert "trained" not in printed.out
    assert "wrong.yaml: metrics[0] must name a known metric, got 'grad_norms'" in " ".join(printed.err.split())


def test_run_passes_absolute_settings_on(folder: Path) -> None:
    (folder / "my.yaml").write_text("metrics: [loss]\n")
    (folder / "train.py").write_text("import os, torch\nos.chdir('/')\n")
    with own_process():
        prepare("train.py", [], config="my.yaml", log_dir="runs/exp1", is_module=False)()
        assert os.environ["TBX_CALLBACKS"] == str(folder / "my.yaml")
        assert os.environ["TBX_CALLBACKS_LOGDIR"] == str(folder / "runs" / "exp1")
        settings = active()
        assert settings is not None
        assert settings == Settings(str(folder / "my.yaml"), str(folder / "runs" / "exp1"))
    assert active() is None
    assert "TBX_CALLBACKS" not in os.environ


def test_run_imports_code_of_set_later(folder: Path) -> None:
    (folder / "my.yaml").write_text("metrics: [loss, tbx_not_yet.Metric]\n")
    (folder / "train.py").write_text("import torch\nprint('trained')\n")
    run_script("train.py", config="my.yaml")


def test_run_reads_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBX_CALLBACKS", "ful")
    assert "did you mean 'full'" in run("run", "train.py").stderr


def test_run_lightning_without_entry_point_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "train.py").write_text("import pytorch_lightning\n")
    (folder / "pytorch_lightning.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("lightning", "pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "tbx_callbacks.integrations.session", raising=False)
    monkeypatch.setattr("tbx_callbacks.cli.run.is_installed", lambda: False)
    run_script("train.py")
    assert "Lightning does not find this package among the installed ones" in capsys.readouterr().err
    sys.modules.pop("pytorch_lightning")
