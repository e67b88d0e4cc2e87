"""The ways a process ends, and whose signal handlers and exit codes they are."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.helpers.processes import python
from tests.helpers.runs import Run

pytestmark = pytest.mark.faults

HEAD = """
import os, signal, sys
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

callback = TbxTrainerCallback(EVERY_STEP, log_dir=sys.argv[1])
at = At()
run = trainer(sys.argv[1] + "/out", callbacks=[callback, at], logging_steps=1, max_steps=12)
"""


def ended(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    script = HEAD + textwrap.dedent(code)
    return python(
        "-c",
        script,
        folder,
        env={**os.environ, "PYTHONFAULTHANDLER": ""},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


ENDS = {
    # what happens at the end of step 7, exit code, last step in the file
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, 6),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, 7),
    "an exception": ("1 / 0", 1, 7),
    "sys.exit": ("sys.exit(5)", 5, 7),
    "os._exit": ("os._exit(6)", 6, 6),
    "os._exit after flush": ("callback.writer.flush(); os._exit(6)", 6, 6),
}


@pytest.mark.parametrize("name", ENDS)
def test_process_end_keeps_published_steps(tmp_path: Path, name: str) -> None:
    act, code, last = ENDS[name]
    done = ended(tmp_path, f"At.act = lambda self: exec({act!r})\nrun.train()\n")
    assert done.returncode == code, done.stderr
    read = Run(tmp_path)
    # Step 7 is measured but not yet published when the process ends there; an orderly end publishes it.
    assert read.steps("weight_norm/total") == list(range(1, last + 1))
    assert read.steps("train/loss") == list(range(1, 7))


def test_failed_run_marked_in_hparams(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    assert ended(tmp_path, "At.act = lambda self: 1 / 0\nrun.train()\n").returncode == 1
    content = Run(tmp_path).plugin("hparams")["_hparams_/session_end_info"]
    assert metadata.parse_session_end_info_plugin_data(content).status == 2  # STATUS_FAILURE


def test_signal_handlers_of_user_kept(tmp_path: Path) -> None:
    code = """
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
    done = ended(tmp_path, code)
    assert done.returncode == 4, done.stderr
    assert Run(tmp_path).steps("train/loss") == list(range(1, 13))


def test_training_installs_no_signal_handler(tmp_path: Path) -> None:
    code = """
        known = [s for s in signal.valid_signals()]
        before = {s: signal.getsignal(s) for s in known}
        run.train()
        assert before == {s: signal.getsignal(s) for s in known}
    """
    done = ended(tmp_path, code)
    assert done.returncode == 0, done.stderr
