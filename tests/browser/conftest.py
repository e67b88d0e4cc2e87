"""Starts Chromium, trains runs of the recipe and serves them with TensorBoard."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.limits import limit
from tests.helpers.runs import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="needs Chromium: apt-get install chromium"))


@pytest.fixture(scope="module")  # its event loop runs until it ends
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


def train_recipe(folder: Path, *options: str) -> Path:
    """Trains a small model for 60 steps with the set `full`; returns the folder of the runs, relative to `folder`."""
    recipe = [sys.executable, str(ROOT / "recipes" / "bert_sentiment.py"), "--max-steps", "60", "--output-dir", "out"]
    small = ["--layers", "1", "--hidden", "16", "--config", "full", "--logging-steps", "5"]
    subprocess.run(
        [*recipe, *small, *options],
        check=True, capture_output=True, cwd=folder, env=_environment(folder), timeout=limit(200),
    )  # fmt: skip
    return folder / "out" / "runs"


@contextmanager
def tensorboard(runs: Path) -> Iterator[str]:
    """Serves the runs with the command `view`; yields the URL."""
    view = [sys.executable, "-c", "from tbx_callbacks.cli import main; main()", "view", runs.name, "--port", "0"]
    server = subprocess.Popen(
        view, cwd=runs.parent, env=_environment(runs), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        url = re.search(r"http://localhost:\d+/", server.stdout.readline())
        assert url is not None
        yield url.group()
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=limit(30))


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
