"""Takes the pictures of this folder: TensorBoard and the report on a folder of runs, in a real browser.

Run: python docs/screenshots.py outputs/bert_sentiment/runs TROUBLED FIRST   (needs playwright and chromium)

TROUBLED is the folder of a run in which something went wrong, such as the recipe with --config full --lr 2e-2. FIRST is
the folder that the example of docs/start.md writes. Pages show the folders as they are given: give relative ones.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from tensorboard import program

from tbx_callbacks.report import write_report

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SCALARS = "^(train/loss|eval/accuracy|grad_norm/total|clip/factor|lr/AdamW/pg1|perf/samples_per_s)$"
TABS = {
    "scalars": (SCALARS, "vz-line-chart2 svg", 6),
    "histograms": ("^(weights|grads)/", "vz-histogram-timeseries svg", 4),
    "distributions": ("^(weights|grads)/", "vz-distribution-chart svg", 4),
    "custom_scalars": (None, "vz-line-chart2 svg", 3),
}


def take(page: Page, url: str, tab: str, folder: Path) -> None:
    tags, drawn, number = TABS[tab]
    page.goto("about:blank")
    page.goto(f"{url}#{tab}")
    if tags is not None:
        page.locator("tf-tag-filterer input").first.fill(tags)
        page.wait_for_timeout(1000)
    page.locator(drawn).nth(number - 1).wait_for(timeout=30_000)
    page.wait_for_timeout(3000)
    page.screenshot(path=str(folder / f"{tab}.png"))


def take_report(browser: Browser, folder: Path, into: Path) -> None:
    """The page's beginning, and its layers; in the light and in the dark."""
    path = write_report([folder], Path(tempfile.mkdtemp()) / "report.html")
    for name, scheme, section in (("report", "light", None), ("report_layers", "dark", "#layers")):
        page = browser.new_page(viewport={"width": 1280, "height": 960}, color_scheme=scheme)
        page.goto(path.as_uri())
        page.locator("figure[data-drawn]").first.wait_for(state="attached")
        if section:
            page.locator(section).evaluate("(one) => one.scrollIntoView()")
        page.wait_for_timeout(3000)
        page.screenshot(path=str(into / f"{name}.png"))


def take_start(browser: Browser, folder: Path, into: Path) -> None:
    """The page of the first example: its finding, losses and gradients."""
    path = write_report([folder], Path(tempfile.mkdtemp()) / "report.html")
    page = browser.new_page(viewport={"width": 1280, "height": 1780})
    page.goto(path.as_uri())
    page.locator("figure[data-drawn]").first.wait_for(state="attached")
    page.wait_for_timeout(3000)
    page.screenshot(path=str(into / "start.png"))


def main() -> None:
    board = program.TensorBoard()
    board.configure(logdir=sys.argv[1], host="localhost", port=0)
    url = board.launch()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1480, "height": 800})
        take_report(browser, Path(sys.argv[2]), Path(__file__).parent)
        take_start(browser, Path(sys.argv[3]), Path(__file__).parent)
        for tab in TABS:
            take(page, url, tab, Path(__file__).parent)
        browser.close()


if __name__ == "__main__":
    main()
