"""Measures the report of a long run: reading, writing, size, opening in Chromium. Run: python benchmarks/report.py

A run of BERT-base with every metric of the set "full", logged at every tenth step, histograms every 50.

`--tags 4000 16000 100000` instead measures runs with so many scalars of layers, four points each: processor seconds to
read a run, and to diagnose it and write its page. `--doctor 100` measures the doctor on so many runs, beside reading.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.report import write_report
from tbx_callbacks.rules.diagnose import DiagnosedRun, diagnose_folder
from tbx_callbacks.runs.reader import read_run
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LAYERS = ["bert.embeddings", *(f"bert.encoder.layer.{n}" for n in range(12)), "bert.pooler", "classifier"]
INSIDE = [f"{part}.{kind}" for kind in ("weight", "bias") for part in (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)]  # fmt: skip


def parameters() -> list[str]:
    names = [f"bert.embeddings.{n}_embeddings.weight" for n in ("word", "position", "token_type")]
    names += [f"bert.embeddings.LayerNorm.{kind}" for kind in ("weight", "bias")]
    names += [f"{layer}.{inside}" for layer in LAYERS[1:13] for inside in INSIDE]
    return names + [f"{layer}.{kind}" for layer in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")]


def scalars(step: int, steps: int, dice: random.Random, names: list[str]) -> dict[str, float]:
    done = step / steps
    rate = 2e-5 * min(done / 0.1, (1 - done) / 0.9)
    norm = (2.5 + dice.lognormvariate(0, 0.5)) * math.exp(-done) * (9 if step == int(steps * 0.43) else 1)
    loss = 0.08 + 0.62 * math.exp(-6 * done) + dice.gauss(0, 0.03) * (0.3 + math.exp(-3 * done))
    made = {"train/loss": abs(loss), "train/learning_rate": rate, "train/grad_norm": norm, "train/epoch": 3 * done}
    made |= {"lr/AdamW/decay": rate, "lr/AdamW/no_decay": rate, "clip/factor": min(1.0, 1 / norm), "clip/share": 0.6}
    made |= {"perf/step_s": 0.21 + dice.gauss(0, 0.01), "perf/steps_per_s": 4.7, "perf/monitor_share": 0.012}
    made |= {"perf/samples_per_s": 32 / 0.21 + dice.gauss(0, 4), "perf/tokens_per_s": 9000 + dice.gauss(0, 300)}
    made |= {"memory/rss_gib": 3.1 + done * 0.1, "memory/peak_gib": 9.4, "memory/reserved_gib": 10.1}
    made |= {"grad_norm/total": norm, "grad_norm_clipped/total": min(norm, 1.0), "weight_norm/total": 120 + done}
    made |= {"nonfinite/gradients/total": 0.0, "nonfinite/weights/total": 0.0, "nonfinite/found": 0.0}
    for place, layer in enumerate(LAYERS):
        share = norm * (0.1 + 0.9 * place / 14) * dice.lognormvariate(0, 0.2) / 4
        made |= {f"grad_norm/{layer}": share, f"grad_norm_clipped/{layer}": share / max(norm, 1)}
        made |= {
            f"weight_norm/{layer}": 30 + place + done,
            f"update_norm/{layer}": 1000 * rate * dice.uniform(0.8, 1.2),
        }
        made |= {f"update_ratio/{layer}": rate * dice.lognormvariate(0, 0.3) * (2 + place)}
        made |= {f"optimizer_state/{kind}/{layer}": share * dice.uniform(0.5, 1) for kind in ("exp_avg", "exp_avg_sq")}
        made |= {f"optimizer_state/effective_lr/{layer}": rate * 3}
    for place, name in enumerate(names):
        made |= {f"grad_norm/{name}": norm / (place + 1), f"weight_norm/{name}": 10.0 + place}
    return made


def histograms(done: float) -> dict[str, HistogramCounts]:
    made = {}
    for family, width in (("weights", 0.2 + 0.05 * done), ("grads", 0.01 * math.exp(-2 * done)), ("updates", 2e-5)):
        for place, layer in enumerate(LAYERS):
            wide = width * (1 + place / 15)
            bins = np.linspace(-4, 4, 64)
            counts = tuple(int(count) for count in 7e6 * np.exp(-(bins**2) / 2) / 64)
            made[f"{family}/{layer}"] = HistogramCounts(counts, -4 * wide, 4 * wide, 0.0, sum(counts) * wide**2)
    return made


def write(folder: Path, *, steps: int, every: int) -> None:
    writer, dice, names = TensorBoardWriter(folder), random.Random(0), parameters()
    for step in range(every, steps + 1, every):
        values: dict[str, Any] = scalars(step, steps, dice, names)
        if step % 50 == 0:
            values |= histograms(step / steps)
        if step % (steps // 10) == 0:
            loss = 0.3 + (step / steps - 0.5) ** 2
            values |= {"eval/loss": loss, "eval/accuracy": 0.93 - loss / 5, "eval/f1": 0.92 - loss / 5}
        writer.write(step, values)
    writer.close()


def opened(page: Path) -> dict[str, float]:
    """Milliseconds until the page is parsed and until its first chart is drawn; and its console messages."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        start = time.perf_counter()
        tab.goto(page.absolute().as_uri())
        tab.locator("figure[data-drawn]").first.wait_for(state="attached")
        drawn = time.perf_counter() - start
        parsed = tab.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
        for place in range(tab.locator("figure[data-figure]").count()):
            tab.locator("figure[data-figure]").nth(place).scroll_into_view_if_needed()
        browser.close()
    if said:
        sys.exit(f"the page said: {said}")
    return {"parsed_ms": parsed, "first_chart_ms": 1000 * drawn}


def measure_tags(numbers: Sequence[int]) -> None:
    """Prints how the time grows with the number of tags."""
    print(f"{'tags':>8} {'reading_s':>10} {'report_s':>10} {'us a tag':>9} {'page_mib':>9}")
    for number in numbers:
        with tempfile.TemporaryDirectory() as name:
            run, page = Path(name) / "run", Path(name) / "report.html"
            writer = TensorBoardWriter(run)
            tags = [
                f"{('grad_norm', 'weight_norm', 'update_ratio', 'grad_norm_clipped')[n % 4]}/model.layers.{n // 40}.{n}"
                for n in range(number)
            ]
            for step in range(1, 5):
                writer.write(step, {"train/loss": 1.0 / step} | {tag: 1.0 + n / step for n, tag in enumerate(tags)})
            writer.close()
            start = time.process_time()
            read_run(run)
            end_of_reading = time.process_time()
            write_report([run], page)
            reading, writing = end_of_reading - start, time.process_time() - end_of_reading
            each = 1e6 * writing / number
            print(f"{number:>8,} {reading:>10.2f} {writing:>10.2f} {each:>9.0f} {page.stat().st_size / 2**20:>9.1f}")


def measure_doctor(number: int) -> None:
    """Prints the processor time of the doctor on many runs, and of bare reading, in turns."""
    with tempfile.TemporaryDirectory() as name:
        for index in range(number):
            write(Path(name) / f"run_{index}", steps=1000, every=10)
        reading = judging = math.inf
        for _ in range(3):
            start = time.process_time()
            for folder in sorted(Path(name).iterdir()):
                read_run(folder)
            end_of_reading = time.process_time()
            judged = sum(isinstance(found, DiagnosedRun) for found in diagnose_folder(name))
            reading = min(reading, end_of_reading - start)
            judging = min(judging, time.process_time() - end_of_reading)
        print(f"{judged} runs: bare reading {reading:.2f} s, doctor {judging:.2f} s, {judging / reading:.2f} times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tags", type=int, nargs="+")
    parser.add_argument("--doctor", type=int, metavar="RUNS")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="write the run and the page here")
    given = parser.parse_args()
    if given.tags or given.doctor:
        if given.tags:
            measure_tags(given.tags)
        if given.doctor:
            measure_doctor(given.doctor)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        run, page = folder / "bert-base", folder / "report.html"
        if not run.exists():
            write(run, steps=given.steps, every=given.every)
        reads: list[tuple[float, int]] = []
        start = time.perf_counter()
        write_report([run], page, progress=lambda _: lambda *report: reads.append((time.perf_counter(), sum(report))))
        end = time.perf_counter()
        row = {
            "run_mib": sum(path.stat().st_size for path in run.iterdir()) / 2**20,
            "reading_s": reads[-1][0] - start,
            "judging_and_writing_s": end - reads[-1][0],
            "page_mib": page.stat().st_size / 2**20,
            **opened(page),
        }
    for what, value in row.items():
        print(f"{what:>22} {value:>9.2f}")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
