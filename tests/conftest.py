"""Sets the options that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

_TESTS = Path(__file__).resolve().parent
ROOT = _TESTS.parent

# One thread a test process: tests run in parallel, and small models are faster with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TBX_CALLBACKS_QUIET"] = "1"  # the tests of the message unset it
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may wait for a model hub
# Scripts that tests start import the checkout, its recipes and the helpers of the tests.
os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "recipes")))
torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; Triton reads it when it is imported


_SLOW_FOLDERS = {"browser", "ecosystem", "faults", "ranks"}  # processes and other libraries: seconds for each test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_TESTS) and item.path.relative_to(_TESTS).parts[0] in _SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _without_users_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TENSORBOARD_LOGGING_DIR", "TBX_CALLBACKS", "TBX_CALLBACKS_LOGDIR"):
        monkeypatch.delenv(name, raising=False)
