"""Tests the report in a real browser: charts, pickers, switches and escaped text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbx_callbacks.metrics.host_values import HParams, Text
from tbx_callbacks.report import write_report
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.browser.open_page import OpenPage
from tests.helpers.hostile_events import event, write_records
from tests.helpers.report_runs import HOSTILE, LAYERS, trained

PRINTED = """window.addEventListener("beforeprint", () => {
  const figures = [...document.querySelectorAll("figure[data-figure]")];
  const main = document.querySelector("main").getBoundingClientRect().right + 1;
  const inside = (one) => one.getBoundingClientRect().right <= main;
  const lines = document.querySelector("#figure-loss .plot").data.filter((t) => t.meta.label);
  window.printed = {
    figures: figures.length,
    drawn: figures.filter((one) => one.dataset.version === document.body.dataset.version && one.querySelector(".main-svg .trace, .main-svg .hm") && inside(one.querySelector(".main-svg"))).length,
    closed: document.querySelectorAll("details:not([open])").length,
    cut: [...document.querySelectorAll("table, pre")].filter((one) => !inside(one)).map((one) => one.textContent.slice(0, 80)),
    text: getComputedStyle(document.body).color,
    styles: lines.map((t) => `${t.line.dash} ${t.marker.symbol} ${t.line.color}`),
  };
})"""  # noqa: E501
"""Records the page on paper, after the page's own listener has drawn it."""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    run = trained(folder / "run", steps=200, spike=120)
    writer = TensorBoardWriter(run)
    writer.write(130, {"alerts/loss_spike": Text("**warning: loss\\_spike**, found at step 130\n\nIt \\*jumped\\*.")})
    writer.close()
    return write_report([run], folder / "report.html")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    trained(folder / "runs" / "slow"), trained(folder / "runs" / "fast", lr=1e-2)
    return write_report([folder / "runs"], folder / "report.html")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(9):
        trained(folder / "runs" / f"rate-{number}e-4", steps=20, lr=number * 1e-4)
    return write_report([folder / "runs"], folder / "report.html")


@pytest.mark.parametrize(("path", "width", "scheme"), [("one", 1280, "light"), ("many", 390, "dark")])
def test_report_page_every_chart_drawn_within_width(
    browser: Any, request: Any, path: str, width: int, scheme: str
) -> None:
    page = OpenPage(browser, request.getfixturevalue(path), width=width, scheme=scheme)
    page.tab.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    names = page.tab.locator("figure[data-figure]").evaluate_all("(all) => all.map((one) => one.dataset.figure)")
    assert len(names) > 12
    for name in names:
        drawn = page.figure(name).locator(".main-svg .trace, .main-svg .hm")
        assert drawn.count() > 0, name
    assert page.tab.evaluate("document.documentElement.scrollWidth") == width
    labels = page.tab.locator("#controls legend")
    assert all(label.is_visible() for label in labels.all())
    assert labels.all_inner_texts() == ["Runs"] * (path == "many") + ["X axis", "Y axis", "Smoothing"]
    assert (page.tab.locator(".scroll[data-cut][tabindex='0']").count() > 0) == (width == 390)
    assert page.wrong == []
    page.tab.close()


@pytest.mark.parametrize(("path", "runs"), [("one", 1), ("many", 9)])
def test_report_print_shows_every_chart_and_table(browser: Any, request: Any, path: str, runs: int) -> None:
    page = OpenPage(browser, request.getfixturevalue(path), scheme="dark")
    page.tab.evaluate(PRINTED)
    pdf = page.tab.pdf(format="A4")
    printed = page.tab.evaluate("window.printed")
    assert pdf.startswith(b"%PDF")
    assert printed["figures"] == printed["drawn"] > 12
    assert (printed["closed"], printed["cut"]) == (runs, [])  # closed: the rules without data of each run
    assert printed["text"] == "rgb(0, 0, 0)"
    assert len(set(printed["styles"])) == len(printed["styles"]) > 1
    page.tab.wait_for_function("() => !document.documentElement.classList.contains('printing')")
    assert page.tab.locator("details.lacking").first.get_attribute("open") is None
    assert page.figure("loss").evaluate("(one) => one.getBoundingClientRect().width") > 1000
    assert page.wrong == []
    page.tab.close()


@pytest.mark.parametrize(
    ("path", "screens"),
    [
        ("one", ((1280, "light"), (1280, "dark"), (390, "dark"), (390, "light"))),
        ("many", ((1280, "dark"), (390, "light"))),
    ],
)
def test_report_passes_axe_in_both_themes(browser: Any, request: Any, path: str, screens: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = OpenPage(browser, request.getfixturevalue(path))
    closed = page.tab.locator("details:not(.more, .lacking)" if path == "one" else "details.run:first-of-type")
    closed.evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    for width, scheme in screens:
        page.tab.set_viewport_size({"width": width, "height": 900})
        page.tab.emulate_media(color_scheme=scheme)
        page.figure("loss")
        # Assistive technology does not see the thousands of elements of the drawings.
        found = axe.run(page.tab, context={"exclude": [[".main-svg"]]}).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == [], (width, scheme)
    page.tab.close()


def test_report_legend_key_hides_line(browser: Any, one: Path) -> None:
    page = OpenPage(browser, one)
    figure = page.figure("loss")
    assert figure.locator(".plot").get_attribute("aria-label").startswith("Loss; train, last 0.")
    button = figure.locator(".legend button", has_text="eval")
    shown = "(one) => one.querySelector('.plot').data.filter((t) => t.meta.label).map((t) => t.visible)"
    assert figure.evaluate(shown) == [True, True]
    button.press("Enter")
    page.figure("loss")
    assert figure.evaluate(shown) == [True, False]
    assert (button.get_attribute("aria-pressed"), button.evaluate("(one) => one.matches(':focus')")) == ("false", True)
    assert page.wrong == []
    page.tab.close()


def test_report_single_histogram_names_its_step(browser: Any, many: Path) -> None:
    page = OpenPage(browser, many)
    labels = "(one) => [...one.querySelectorAll('.xtick text')].map((each) => each.textContent)"
    assert page.figure("histogram_weights").evaluate(labels) == ["20"]
    page.press("x", "samples")
    assert page.figure("histogram_weights").evaluate(labels) == ["160"]
    page.tab.close()


def test_report_long_legend_leaves_lines_their_height(browser: Any, tmp_path: Path) -> None:
    parts = dict.fromkeys((f"time/{name}_s" for name in ("data", "forward", "backward", "clip", "optimizer")), 0.1)
    run = trained(tmp_path / "run", extra=parts)
    page = OpenPage(browser, write_report([run], tmp_path / "report.html"))
    heights = [
        page.figure(name).locator(".plot .cartesianlayer .plot, .plot .bglayer .bg").first.bounding_box()["height"]
        for name in ("step_time", "step_parts")
    ]
    assert heights[1] >= 0.7 * heights[0]
    page.tab.close()


def test_report_finding_button_marks_step_in_charts(browser: Any, one: Path) -> None:
    page = OpenPage(browser, one)
    finding = page.tab.locator(".findings li", has_text="loss_spike")
    assert finding.bounding_box()["y"] < 900
    assert page.plotted("loss").get("shapes") is None
    finding.locator("button").click()
    (line,) = page.plotted("loss")["shapes"]
    assert line["x0"] == line["x1"] == 120
    assert page.plotted("grad_norm")["shapes"] == [line]
    page.tab.close()


def test_report_alert_marker_hover_shows_text(browser: Any, one: Path) -> None:
    page = OpenPage(browser, one)
    (marker,) = [trace for trace in page.plotted("gradient_norm")["traces"] if trace["name"] == "alerts"]
    assert marker["x"] == [130]
    plot = page.figure("loss").locator(".plot")
    point = "{ curveNumber: one.data.findIndex((trace) => trace.name === 'alerts'), pointNumber: 0 }"
    plot.evaluate(f"(one) => Plotly.Fx.hover(one, [{point}])")
    printed = plot.locator(".hoverlayer").text_content()
    assert "alert, step 130: warning: loss_spike, found at step 130" in printed
    assert "It *jumped*." in printed
    assert page.wrong == []
    page.tab.close()


def test_report_switches_change_axes_scale_and_smoothing(browser: Any, one: Path) -> None:
    page = OpenPage(browser, one)
    before = page.plotted("loss")
    assert (before["x"], before["y"], before["traces"][0]["x"][-1]) == ("step", "linear", 200)
    page.press("x", "samples")
    samples = page.plotted("loss")
    assert (samples["x"], samples["traces"][0]["x"][-1]) == ("samples", 1600)
    assert page.wrong == []
    page.press("x", "time")
    assert page.plotted("loss")["x"].startswith("time (")
    assert page.plotted("weight_norm")["x"].startswith("time (")
    page.press("x", "step")
    page.press("y", "log")
    assert page.plotted("gradient_norm")["y"] == "log"
    page.press("smooth", "much")
    smooth = page.plotted("loss")["traces"]
    assert smooth[0]["y"] == before["traces"][0]["y"]  # still drawn, faintly
    spread = [np.ptp(np.diff(trace["y"][10:55])) for trace in smooth[:2]]
    assert spread[1] < 0.3 * spread[0]
    page.press("smooth", "off")
    assert page.plotted("loss")["traces"][0]["y"] == before["traces"][0]["y"]
    assert page.wrong == []
    page.tab.close()


def test_report_layer_picker_changes_histograms(browser: Any, one: Path) -> None:
    page = OpenPage(browser, one)
    assert page.plotted("histogram_grads")["traces"][0]["pick"]["layer"] == LAYERS[0]
    page.tab.locator("#histograms select[name=layer]").select_option("classifier")
    for name in ("histogram_grads", "histogram_weights"):
        assert {trace["pick"]["layer"] for trace in page.plotted(name)["traces"]} == {"classifier"}
    assert page.wrong == []
    page.tab.close()


def test_report_runs_hidden_and_picked(browser: Any, several: Path) -> None:
    page = OpenPage(browser, several)
    assert [trace["name"] for trace in page.plotted("throughput")["traces"]] == ["fast", "slow"]
    page.tab.locator("[data-toggle]", has_text="fast").click()
    assert [trace["name"] for trace in page.plotted("throughput")["traces"]] == ["slow"]
    page.tab.locator("#layers select[name=run]").select_option("slow")
    assert page.plotted("grad_norm")["traces"][0]["pick"] == {"run": "slow"}
    assert page.wrong == []
    page.tab.close()


def test_report_colours_follow_colour_scheme(browser: Any, one: Path) -> None:
    page = OpenPage(browser, one, scheme="dark")
    colour = "(one) => one.querySelector('.plot').data[0].line.color"
    dark = page.figure("loss").evaluate(colour)
    page.tab.emulate_media(color_scheme="light")
    assert page.figure("loss").evaluate(colour) != dark
    page.tab.close()


def test_report_hostile_text_stays_inert(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "<img src=x onerror=alert(1)>"
    writer = TensorBoardWriter(folder)
    writer.write(1, {"_hparams_/session_start_info": HParams({"note": HOSTILE, HOSTILE: 1.0})})
    writer.write(1, {"worst": Text(f"a film {HOSTILE}"), "args": Text(f'{{"a": "{HOSTILE}"}}')})
    writer.close()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for step in range(1, 60):
            writer.add_scalar("train/loss", float("nan") if step > 40 else 1.0, step)
            writer.add_scalar(f"x/{HOSTILE}", 1.0, step)
            for layer in ("a.1", "a.2", f"a.{HOSTILE}", "<a href='javascript:window.hacked=1'>a.b</a>"):
                writer.add_scalar(f"grad_norm/{layer}", 1.0, step)
                writer.add_histogram(f"weights/{layer}", np.arange(5.0), step)
    trained(tmp_path / "runs" / "</script><script>window.hacked=1</script>")
    page = OpenPage(browser, write_report([tmp_path / "runs"], tmp_path / "report.html"))
    page.tab.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    for name in page.tab.locator("figure[data-figure]").evaluate_all("(all) => all.map((one) => one.dataset.figure)"):
        page.figure(name).locator(".plot").hover()
    assert page.tab.evaluate("window.hacked") is None
    assert page.tab.locator("img, .plot a").count() == 0
    assert "window.hacked = 1</script>" in page.tab.locator("pre").first.inner_text()
    assert page.wrong == []
    page.tab.close()


def test_report_odd_names_and_numbers_drawn(browser: Any, tmp_path: Path) -> None:
    steps = [2**40, 2**40 + 1, 2**53 - 1, 2**62]
    histogram = {"min": -1.7e308, "max": 1.7e308, "bucket_limit": [0.0, 1.0], "bucket": [1.0, 1e300]}
    events = [
        event(step, math.nan, tag=tag, **value)
        for step in steps
        for tag, value in (
            ("train/loss", {"simple_value": 0.5}),
            *((f"{family}/x", {"histo": histogram}) for family in ("a b", "a\0b", "a\rb", 'a"b', "a\u202eb")),
            *((f"grad_norm/\0.{n}", {"simple_value": 3e38 * (-1) ** n}) for n in range(4)),
        )
    ]
    write_records(tmp_path / "run" / "events.out.tfevents.1.x", *events)
    page = OpenPage(browser, write_report([tmp_path / "run"], tmp_path / "report.html"))
    page.tab.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    names = page.tab.locator("figure[data-figure]").evaluate_all("(all) => all.map((one) => one.dataset.figure)")
    assert len(names) == 7
    for name in names:
        page.figure(name)
    assert [float(x) for x in page.plotted("loss")["traces"][0]["x"]] == [float(step) for step in steps]
    assert page.wrong == []
    page.press("x", "time")
    page.figure("loss")
    assert page.wrong == []
    page.tab.close()


def test_report_watched_page_reloads_and_keeps_switches(browser: Any, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", steps=60)
    page = OpenPage(browser, write_report([run], tmp_path / "report.html", refresh=3))
    page.press("y", "log")
    write_report([trained(tmp_path / "run", steps=180)], tmp_path / "report.html")
    page.tab.wait_for_function("() => document.querySelector('.numbers').textContent.includes('180')")
    assert page.plotted("loss")["y"] == "log"
    assert page.wrong == []
    page.tab.close()
