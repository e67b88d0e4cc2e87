"""Tests in a real browser that the report and TensorBoard show Chinese texts, class names and run names."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks.report import write_report
from tests.browser.conftest import tensorboard, train_recipe
from tests.browser.open_page import OpenPage
from tests.helpers.limits import limit

SUBJECTS = ("这部电影", "这本书", "这家餐厅", "这首歌", "这次旅行", "这个房间", "这位医生", "这台电脑")
PRAISE = ("非常好", "让人满意", "值得推荐", "超出预期")
BLAME = ("非常差", "让人失望", "不值得", "浪费时间")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a recipe run on Chinese reviews with the classes 好评 and 差评."""
    folder = tmp_path_factory.mktemp("情感分类")
    rows = [f"{a}{b}，{c}。\t{label}" for label, words in (("好评", PRAISE), ("差评", BLAME))  # noqa: RUF001
            for a, b, c in itertools.product(SUBJECTS, words, words)]  # fmt: skip
    (folder / "数据").mkdir()
    for split in ("train", "dev"):
        text = "\n".join(["sentence\tlabel", *rows])
        (folder / "数据" / f"{split}.tsv").write_text(f"{text}\n", encoding="utf-8")
    found = train_recipe(folder, "--data", "数据")
    next(found.iterdir()).rename(found / "第一次训练")
    return found


def test_report_shows_chinese_texts_and_classes(browser: Any, runs: Path, tmp_path: Path) -> None:
    page = OpenPage(browser, write_report([runs], tmp_path / "报告.html"))
    page.tab.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    for name in page.tab.locator("figure[data-figure]").evaluate_all("(all) => all.map((one) => one.dataset.figure)"):
        page.figure(name)
    text = page.tab.locator("body").inner_text()
    assert "第一次训练" in text
    assert {"eval/f1/好评, last", "eval/f1/差评, last"} <= {*text.split("\n")}
    assert any(subject in text for subject in SUBJECTS)
    assert page.wrong == []
    page.tab.close()


def test_tensorboard_shows_chinese_texts_and_runs(browser: Any, runs: Path) -> None:
    with tensorboard(runs) as url:
        page = browser.new_page()
        page.goto(f"{url}#text")
        page.get_by_text("第一次训练").first.wait_for(timeout=1000 * limit(30))
        page.get_by_text("这").first.wait_for(timeout=1000 * limit(30))
        page.goto("about:blank")
        page.goto(f"{url}#scalars")
        page.locator("tf-tag-filterer input").first.fill("^eval/f1/好评$")
        page.get_by_text("eval/f1/好评", exact=True).first.wait_for(timeout=1000 * limit(30))
        page.locator("vz-line-chart2 svg").first.wait_for(timeout=1000 * limit(30))
        page.close()
