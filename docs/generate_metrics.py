"""Writes the table, the sections and the charts of docs/metrics.md.

Run: python docs/generate_metrics.py            (the page)
     python docs/generate_metrics.py --train    (also trains two small models and draws the charts; needs peft)

The text between the markers comes from the classes of the metrics and docs/metric_texts.py. The rest is handwritten.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT), str(ROOT / "recipes")]

import generate_findings  # noqa: E402
from metric_texts import TEXTS  # noqa: E402

from tbx_callbacks.metrics.registry import METRICS  # noqa: E402
from tbx_callbacks.rules import RULES  # noqa: E402
from tbx_callbacks.runs import Run, read_run  # noqa: E402

PAGE = ROOT / "docs" / "metrics.md"
CHARTS = ROOT / "docs" / "metrics"
SET = {
    "every": "log",
    "metrics": [
        "loss",
        "clip",
        "throughput",
        "time",
        {"grad_norm": {"by": "total"}},
        {"grad_norm_clipped": {"by": "total"}},
        *({metric: {"by": "layer"}} for metric in ("weight_norm", "update_ratio", "drift")),
        {"weight_histogram": {"by": "layer"}},
        "activations",
    ],
}


# -- the page ----------------------------------------------------------------------------------------------------------


def summary(name: str) -> str:
    return " ".join((METRICS[name].__doc__ or "").strip().partition("\n\n")[0].split())


def details(name: str) -> tuple[str, str]:
    """Returns what the docstring of a metric says after its first sentence, and what it costs."""
    lines = [line.removeprefix("    ") for line in (METRICS[name].__doc__ or "").splitlines()]
    body, _, cost = "\n".join(lines).partition("\n\n")[2].strip().partition("Cost: ")
    return body.strip(), " ".join(cost.split()) or f"{METRICS[name].cost}."


def in_cell(text: str) -> str:
    """Writes code that has a bar so that the bar does not end the cell of a table."""
    bar_in_code = re.compile(r"`([^`|]*\|[^`]*)`")
    return bar_in_code.sub(lambda code: f"<code>{code[1].replace('|', '&#124;').replace('*', '&#42;')}</code>", text)


def table() -> str:
    """Returns one row for each metric."""
    rows = ["| metric | meaning | tags | unit | cost |", "|---|---|---|---|---|"]
    for name, cls in METRICS.items():
        tags = "<br>".join(f"`{tag}`" for tag in cls.tags)
        units = "<br>".join(unit or "–" for unit in cls.tags.values())  # noqa: RUF001
        rows.append(f"| [`{name}`](#{name}) | {in_cell(summary(name))} | {tags} | {units} | {cls.cost} |")
    return "\n".join(rows)


def readers(metric: str) -> list[str]:
    """Returns the rules that read a metric."""
    first_words = {
        rule: {re.split("[,:]", need.metric)[0].strip() for need in cls.needs} for rule, cls in RULES.items()
    }
    return [rule for rule, metrics in first_words.items() if metric in metrics]


def section(name: str) -> str:
    """Returns the section of a metric."""
    cls, text = METRICS[name], TEXTS[name]
    body, cost = details(name)
    units = [f"`{tag}` ({unit})" if unit else f"`{tag}`" for tag, unit in cls.tags.items()]
    links = ", ".join(f"[{rule}](findings.md#{generate_findings.anchor(rule)})" for rule in readers(name))
    parts = [
        f"## {name}",
        summary(name),
        f"```text\n{text.formula}\n```" if text.formula else "",
        text.symbols,
        f"![Chart: {text.picture[1]}]({text.picture[0]})" if text.picture else "",
        f"**Tags:** {', '.join(units)}.",
        f"**Cost:** {cost}",
        f"**When to worry:** {text.worry}" + (f" Findings that read it: {links}." if links else ""),
        body,
    ]
    return "\n\n".join(part for part in parts if part)


def filled(page: str) -> str:
    """Returns the page with what belongs between its markers."""
    for name, text in (("table", table()), ("sections", "\n\n".join(section(name) for name in METRICS))):
        start, end = f"<!-- {name}: written by docs/generate_metrics.py -->", f"<!-- end of {name} -->"
        if page.count(start) != 1 or page.count(end) != 1:
            raise ValueError(f"the page must have {start} and {end} once each; put them in")
        page = page[: page.index(start)] + f"{start}\n\n{text}\n\n" + page[page.index(end) :]
    return page


# -- the charts --------------------------------------------------------------------------------------------------------


def train(folder: Path, metrics: Mapping[str, Any], *, with_lora: bool = False) -> Run:
    """Trains a small BERT, or LoRA adapters in it, and reads the run."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR

    from tbx_callbacks import TbxLoop
    from tests.helpers import trainings

    torch.set_num_threads(1)
    plan = trainings.Plan()
    model = trainings.model_of(plan)
    if with_lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=4, target_modules=["query", "value"], modules_to_save=["classifier"])
        )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=plan.lr)
    schedule = LambdaLR(optimizer, lambda done: trainings.rate(done + 1, plan))
    rows, dev = trainings.data(plan)
    with TbxLoop(model, optimizer, metrics, log_dir=folder, log_every=3, max_grad_norm=plan.clip) as loop:
        for step, batch in enumerate(loop.track(trainings.batches(rows, plan)), 1):
            model.train()
            loss = model(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels).loss
            loss.backward()
            loop.before_clip()
            torch.nn.utils.clip_grad_norm_(trained, plan.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=len(batch.labels))
            if step % plan.eval_every == 0:
                loop.evaluate(**trainings.evaluation(model, dev))
    return read_run(folder)


def lines(figure: Any, run: Run, tags: Sequence[str], *, scale: str = "linear", relative: bool = False) -> None:
    """Draws some series over steps."""
    from matplotlib.ticker import NullLocator

    axes = figure.subplots()
    for tag in tags:
        values, label = run.scalars[tag].values, generate_findings.label_of(tag)
        values = values / values[0] if relative else values
        axes.plot(run.scalars[tag].steps, values, linewidth=1.4, label=label)
    axes.set_yscale(scale)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("step")
    axes.set_ylabel("divided by its first value" if relative else "")
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def histograms(figure: Any, run: Run, tag: str) -> None:
    """Draws the first and the last histogram of a tag."""
    axes, found = figure.subplots(), run.histograms[tag]
    for index in (0, -1):
        left, right, count = found.buckets[index].T
        axes.step(left, count / (right - left), where="post", label=f"step {found.steps[index]}", linewidth=1.2)
    axes.set_xlabel(tag)
    axes.set_ylabel("elements per unit")
    axes.legend(fontsize=7, frameon=False)


def draw_all() -> None:
    """Trains, and writes all charts."""
    CHARTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = train(Path(folder) / "all", SET)
        adapters = train(Path(folder) / "lora", {"every": "log", "metrics": ["lora"]}, with_lora=True)

    def like(pattern: str, of: Run = run) -> list[str]:
        return [tag for tag in of.scalars if re.fullmatch(pattern, tag)]

    parts = [f"time/{part}_s" for part in ("forward", "backward", "optimizer", "monitoring")]
    layers = r".*encoder\.layer\.\d+|.*embeddings|.*classifier"
    charts = {
        "loss": (run, ["train/loss", "eval/loss"], {}),
        "grad_norm": (run, ["grad_norm/total", "grad_norm_clipped/total", "clip/factor"], {}),
        "weight_norm": (run, like(f"weight_norm/({layers})"), {"relative": True}),
        "update_ratio": (run, like(f"update_ratio/({layers})"), {"scale": "log"}),
        "drift": (run, like(f"drift/({layers})"), {}),
        "activations": (run, like("activations/.*/norm"), {}),
        "time": (run, ["perf/step_s", *parts], {}),
        "lora": (adapters, like(r"lora/.*layer\.1\..*", adapters), {}),
    }
    for name, (of, tags, options) in charts.items():
        drawing = generate_findings.svg(name, name, lambda figure: lines(figure, of, tags, **options))  # noqa: B023
        (CHARTS / f"{name}.svg").write_text(drawing, encoding="utf-8")
    tag = next(tag for tag in run.histograms if "classifier" not in tag and "layer.0" in tag)
    drawing = generate_findings.svg("weight_histogram", tag, lambda figure: histograms(figure, run, tag))
    (CHARTS / "weight_histogram.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--train"]:
        draw_all()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
