"""Compares scripts with those that Python runs: names, arguments, import path, output, traceback, exit code."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from textwrap import dedent

import pytest

from tbx_callbacks.autolog.script import Script, ScriptError
from tests.helpers.processes import python
from tests.helpers.scripts import own_process

SCRIPT = """
import multiprocessing, pickle, sys
import neighbour

class Own: ...

def square(x):
    return x * x

def fails():
    raise ValueError("oops")

if __name__ == "__main__":
    print(__file__, sys.argv, sys.path[0], __package__, __spec__ and __spec__.name, type(__loader__).__name__)
    print(sorted(name for name in globals() if name.startswith("__")), __builtins__.__name__)
    print(type(pickle.loads(pickle.dumps(Own()))) is Own, neighbour.number)
    task = sys.argv[1]
    if task == "exit":
        sys.exit(3)
    if task == "words":
        sys.exit("bye")
    if task == "raise":
        fails()
    if task == "cause":
        try:
            fails()
        except ValueError as error:
            raise EOFError from error
    if task == "interrupt":
        raise KeyboardInterrupt
    if task == "hook":
        sys.excepthook = lambda kind, error, trace: print(kind, trace.tb_frame.f_code.co_filename)
        fails()
    if task == "spawn":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.map(square, [1, 2, 3]))
"""
RUN = "from tbx_callbacks.autolog.script import Script; import sys; Script({!r}, sys.argv[1:], {}).run()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "pkg").mkdir()
    for name in ("train.py", "pkg/__main__.py", "pkg/mod.py"):
        (folder / name).write_text(SCRIPT)
    (folder / "pkg" / "__init__.py").touch()
    for name in ("neighbour.py", "pkg/neighbour.py"):
        (folder / name).write_text("number = 3\n")
    (folder / "wrong.py").write_text("def f(:\n")
    (folder / "link.py").symlink_to(folder / "pkg" / "mod.py")
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        for name in ("__main__.py", "neighbour.py"):
            archive.write(folder / "pkg" / name, name)
    return folder


@pytest.mark.parametrize("task", ["exit", "words", "raise", "cause", "interrupt", "hook", "spawn"])
def test_script_ends_as_under_python(folder: Path, task: str) -> None:
    expected = python("train.py", task, cwd=folder)
    done = python("-c", RUN.format("train.py", False), task, cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (expected.returncode, expected.stdout, expected.stderr)
    assert expected.stdout.startswith(str(folder))


@pytest.mark.parametrize("target", ["link.py", "pkg/../train.py", "pkg", "train.zip", "wrong.py"])
def test_target_runs_as_under_python(folder: Path, target: str) -> None:
    expected = python(target, "--config", "-m", "--", cwd=folder)
    done = python("-c", RUN.format(target, False), "--config", "-m", "--", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (expected.returncode, expected.stdout, expected.stderr)


@pytest.mark.parametrize("module", ["pkg", "pkg.mod", "train"])
def test_module_runs_as_under_python(folder: Path, module: str) -> None:
    expected = python("-m", module, "task", cwd=folder)
    done = python("-c", RUN.format(module, True), "task", cwd=folder)
    assert expected.returncode == 0
    assert (done.returncode, done.stdout, done.stderr) == (0, expected.stdout, "")


def test_script_changes_folder_and_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("import os, sys\nos.chdir('/')\nsys.argv.append('more')\nkept = sys.argv\n")
    with own_process():
        Script("train.py", ("one",)).run()
        assert vars(sys.modules["__main__"])["kept"] == ["train.py", "one", "more"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            Script("nowhere.py"),
            "SCRIPT must be a Python file, got 'nowhere.py', which does not exist; a module needs -m",
        ),
        (Script("empty"), "got 'empty' without a __main__.py"),
        (
            Script("tbx_nowhere", is_module=True),
            "MODULE must be importable, got 'tbx_nowhere'; for a file, leave out -m",
        ),
    ],
)
def test_missing_script_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScriptError, match=words):
        script.check()


def test_module_without_code_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tbx_no_main").mkdir()
    (tmp_path / "tbx_no_main" / "__init__.py").write_text(dedent(""))
    monkeypatch.chdir(tmp_path)
    script = Script("tbx_no_main", is_module=True)
    script.check()
    with own_process(), pytest.raises(ImportError, match="no Python code to run in tbx_no_main"):
        script.run()
    sys.modules.pop("tbx_no_main")
