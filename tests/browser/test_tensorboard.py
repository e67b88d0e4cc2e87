"""Tests in a real browser that TensorBoard shows the series of a recipe run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.conftest import tensorboard, train_recipe
from tests.helpers.limits import limit


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a TensorBoard that shows a short run of the recipe."""
    with tensorboard(train_recipe(tmp_path_factory.mktemp("recipe"))) as url:
        yield url


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
def test_tensorboard_tab_of_recipe_run_shows_tags(board: str, browser: Any, tab: str) -> None:
    errors: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
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
    page.close()
