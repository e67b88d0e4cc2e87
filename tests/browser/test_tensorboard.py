"""Tests in a real browser that TensorBoard shows the series of a recipe run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.limits import limit
from tests.helpers.runs import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a TensorBoard that shows a short run of the recipe."""
    folder = tmp_path_factory.mktemp("recipe")
    recipe = [sys.executable, str(ROOT / "recipes" / "bert_sentiment.py"), "--max-steps", "60", "--output-dir", "out"]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    small = ["--layers", "1", "--hidden", "16", "--config", "full", "--logging-steps", "5"]
    subprocess.run([*recipe, *small], check=True, capture_output=True, cwd=folder, env=environment, timeout=limit(200))
    view = [sys.executable, "-c", "from tbx_callbacks.cli import main; main()", "view", "out/runs", "--port", "0"]
    server = subprocess.Popen(
        view, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        url = re.search(r"http://localhost:\d+/", server.stdout.readline())
        assert url is not None
        yield url.group()
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=limit(30))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")), executable_path=CHROMIUM, headless=True, args=FLAGS
        )
        yield context.new_page()
        context.close()


SHOWN = {
    "scalars": ["train/loss", "eval/accuracy", "grad_norm/total", "lr/AdamW/pg1", "perf/step_s"],
    "histograms": ["grads/bert.embeddings", "weights/bert.encoder.layer.0"],
    "distributions": ["grads/bert.embeddings", "weights/bert.encoder.layer.0"],
    "custom_scalars": ["train and eval", "grad_norm", "by parameter group"],
    "hparams": ["learning_rate", "eval/accuracy", "best/accuracy"],
    "text": ["args/text_summary", "eval/worst/text_summary"],
}


FILTERED = ("scalars", "histograms", "distributions")


@pytest.mark.parametrize("tab", SHOWN)
def test_tensorboard_tab_of_recipe_run_shows_tags(board: str, page: Any, tab: str) -> None:
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto("about:blank")
    page.goto(f"{board}#{tab}")
    for name in SHOWN[tab]:
        if tab in FILTERED:  # panes load as they scroll into view: the filter brings the tag to the top
            page.locator("tf-tag-filterer input").first.fill(f"^{re.escape(name)}$")
        page.get_by_text(name, exact=True).first.wait_for(state="attached", timeout=1000 * limit(30))
    if tab in FILTERED:
        page.locator("vz-line-chart2 svg, vz-histogram-timeseries svg, vz-distribution-chart svg").first.wait_for(
            timeout=1000 * limit(30)
        )
    assert errors == []
