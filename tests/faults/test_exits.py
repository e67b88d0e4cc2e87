"""Tests exit codes, signal handlers and kept steps for every end of a process."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.processes import python
from tests.helpers.runs import Run

pytestmark = pytest.mark.faults

# Each training runs in a child of this script, forked after the imports; a child ends like a separate process.
FORK = """
import json, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import torch
torch.set_num_threads(1)
from tests.helpers.models import trainer
from transformers import TrainerCallback
from tbx_callbacks import TbxTrainerCallback
from tests.faults.training import EVERY_STEP

class At(TrainerCallback):
    act = staticmethod(lambda: None)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            self.act()

for folder, code in json.loads(sys.argv[1]).items():
    os.mkdir(folder)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(folder + ".stderr", os.O_WRONLY | os.O_CREAT), 2)
        callback = TbxTrainerCallback(EVERY_STEP, log_dir=folder)
        at = At()
        run = trainer(folder + "/out", callbacks=[callback, at], logging_steps=1, max_steps=12)
        exec(code)
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
ENDS = {
    # code to run at the end of step 7, exit code, last step in the file
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, 6),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, 7),
    "an exception": ("1 / 0", 1, 7),
    "sys.exit": ("sys.exit(5)", 5, 7),
    "os._exit": ("os._exit(6)", 6, 6),
    "os._exit after flush": ("callback.writer.flush(); os._exit(6)", 6, 6),
}
HANDLERS_KEPT = """
handled = []
def mine(number, frame):
    handled.append(number)
before = {s: signal.signal(s, mine) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
At.act = lambda self: [os.kill(os.getpid(), s) for s in before]
run.train()
assert all(signal.getsignal(s) is mine for s in before), "a handler was replaced"
assert sorted(handled) == sorted(before), handled
sys.exit(4)
"""
NO_HANDLERS = """
known = [s for s in signal.valid_signals()]
before = {s: signal.getsignal(s) for s in known}
run.train()
assert before == {s: signal.getsignal(s) for s in known}
"""
CODE = {
    **{name: f"At.act = lambda self: exec({act!r})\nrun.train()" for name, (act, _, _) in ENDS.items()},
    "handlers kept": HANDLERS_KEPT,
    "no handlers": NO_HANDLERS,
}


@dataclass(frozen=True)
class EndedTraining:
    """The exit code, the error output and the folder of a training."""

    code: int
    stderr: str
    folder: Path


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EndedTraining]:
    """The ended trainings, by name of their code."""
    base = tmp_path_factory.mktemp("ended")
    folders = {name: base / str(index) for index, name in enumerate(CODE)}
    given = json.dumps({str(folders[name]): code for name, code in CODE.items()})
    environment = {**os.environ, "PYTHONFAULTHANDLER": ""}
    done = python("-W", "ignore::DeprecationWarning", "-c", FORK, given, seconds=200, env=environment)
    assert done.returncode == 0, done.stderr
    codes = [int(line) for line in done.stdout.splitlines() if line.lstrip("-").isdigit()]
    return {
        name: EndedTraining(code, folder.with_suffix(".stderr").read_text(), folder)
        for (name, folder), code in zip(folders.items(), codes, strict=True)
    }


@pytest.mark.parametrize("name", ENDS)
def test_process_end_keeps_published_steps(ended: dict[str, EndedTraining], name: str) -> None:
    _, code, last = ENDS[name]
    assert ended[name].code == code, ended[name].stderr
    read = Run(ended[name].folder)
    # The values of step 7 are not published yet when the process ends there; an orderly end publishes them.
    assert read.steps("weight_norm/total") == list(range(1, last + 1))
    assert read.steps("train/loss") == list(range(1, 7))


def test_failed_run_marked_in_hparams(ended: dict[str, EndedTraining]) -> None:
    from tensorboard.plugins.hparams import metadata

    failed = ended["an exception"]
    assert failed.code == 1
    content = Run(failed.folder).plugin("hparams")["_hparams_/session_end_info"]
    assert metadata.parse_session_end_info_plugin_data(content).status == 2  # STATUS_FAILURE


def test_signal_handlers_of_user_kept(ended: dict[str, EndedTraining]) -> None:
    done = ended["handlers kept"]
    assert done.code == 4, done.stderr
    assert Run(done.folder).steps("train/loss") == list(range(1, 13))


def test_training_installs_no_signal_handler(ended: dict[str, EndedTraining]) -> None:
    done = ended["no handlers"]
    assert done.code == 0, done.stderr
