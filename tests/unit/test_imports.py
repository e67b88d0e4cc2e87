"""Importing the package loads no trainer."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "lightning", "pytorch_lightning", "tensorboard", "datasets", "plotly", "jinja2")


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint('\\n'.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "from tbx_callbacks import load_config; load_config('full')",
        "import tbx_callbacks._engine.engine, tbx_callbacks.metrics.registry, tbx_callbacks.writers.base",
    ],
)
def test_the_core_loads_no_trainer(code: str) -> None:
    assert loaded_after(code) == {"torch"}


@pytest.mark.parametrize("code", ["import tbx_callbacks", "import tbx_callbacks.cli, tbx_callbacks.report"])
def test_what_reads_runs_does_not_load_torch(code: str) -> None:
    assert loaded_after(code) == set()


def test_the_check_can_fail() -> None:
    assert {"torch", "transformers"} <= loaded_after("from tbx_callbacks import TbxTrainerCallback")


def test_unknown_names_list_the_known_ones() -> None:
    import tbx_callbacks

    with pytest.raises(AttributeError, match="TbxTrainerCallback"):
        _ = tbx_callbacks.TbxCallback
    assert set(tbx_callbacks.__all__) <= set(dir(tbx_callbacks))
