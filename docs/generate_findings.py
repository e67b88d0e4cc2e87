"""Writes docs/findings.md and its charts: what each finding means, a real run with it, and the fix.

Run: python docs/generate_findings.py                  (charts and page, from docs/findings/evidence.json)
     python docs/generate_findings.py --train [RULE]   (trains the runs again first; needs the test requirements)

The charts need matplotlib. `page` needs the package only, so that a test can compare the page with the rules.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT), str(ROOT / "recipes")]

from finding_texts import FAMILIES, QUESTIONS, SYMPTOMS, TEXTS, Chart  # noqa: E402
from rich.console import Console  # noqa: E402

from tbx_callbacks._config.rule_options import thresholds  # noqa: E402
from tbx_callbacks.cli.doctor import print_diagnosis  # noqa: E402
from tbx_callbacks.metrics.registry import METRICS  # noqa: E402
from tbx_callbacks.rules import RULES, Diagnosis, Finding, Rule, diagnose  # noqa: E402
from tbx_callbacks.rules.diagnose import DiagnosedRun  # noqa: E402
from tbx_callbacks.rules.required_series import TRAIN_LOSS  # noqa: E402
from tbx_callbacks.rules.training_loss import training_loss  # noqa: E402
from tbx_callbacks.rules.verdict import Verdict  # noqa: E402
from tbx_callbacks.runs import Run, Series  # noqa: E402
from tbx_callbacks.runs.series import Texts  # noqa: E402

PAGE = ROOT / "docs" / "findings.md"
CHARTS = ROOT / "docs" / "findings"
EVIDENCE = CHARTS / "evidence.json"
WIDTH = 100  # of the printed text
_MOST_DRAWN, _MOST_BESIDE = 4, 4
_COLOURS = ("#1f5fbf", "#c2410c", "#15803d", "#7e22ce")
_GREY = "#9ca3af"
_NUMBER = re.compile(r"-?\d+\.\d{2,}")

Stored = dict[str, Any]


# -- the evidence: series of a real run that suffice for the finding ---------------------------------------------------


def finding_of(rule: str, run: Run) -> Finding:
    """Returns the first finding of a rule with its default thresholds.

    Raises:
        ValueError: the rule finds nothing in the run.
    """
    found = [one for one in diagnose(run, {rule: RULES[rule]()}).findings if one.id == rule]
    if not found:
        raise ValueError(f"the run of {rule} must have its finding, got none; change the run in docs/finding_runs.py")
    return found[0]


def stored(rule: str, run: Run, title: str) -> Stored:
    """Returns the smallest part of a run with the same finding, and what the chart shows beside it."""
    wanted = finding_of(rule, run)
    run = Run(run.scalars, texts={tag: text for tag, text in run.texts.items() if tag.startswith(("wiring/", "nonf"))})
    shown = {*wanted.tags, *drawn(rule, wanted, run), *beside(rule, wanted, run)}
    small = _smallest(rule, wanted, run, shown)
    for digits in (4, 5, 6, 8, 17):
        written = {
            "title": title,
            "scalars": {tag: _write(series, digits) for tag, series in small.scalars.items()},
            "texts": {tag: [int(text.steps[0]), text.values[0]] for tag, text in small.texts.items()},
        }
        if _says_the_same(finding_of(rule, read(written)), wanted):
            return written
    raise ValueError(f"the stored series of {rule} must give its finding; they do not")


def _says_the_same(one: Finding, other: Finding) -> bool:
    return (one.means, one.severity, one.tags, one.steps) == (other.means, other.severity, other.tags, other.steps)


def _smallest(rule: str, wanted: Finding, run: Run, shown: Iterable[str]) -> Run:
    """Leaves out families of tags, then tags, as long as the finding stays the same."""
    families: dict[str, list[str]] = {}
    for tag in [*run.scalars, *run.texts]:
        families.setdefault(tag.partition("/")[0], []).append(tag)
    for parts in ([*families.values()], [[tag] for tag in [*run.scalars, *run.texts]]):
        for part in parts:
            gone = {*part} - {*shown}
            fewer = Run(
                {tag: one for tag, one in run.scalars.items() if tag not in gone},
                texts={tag: one for tag, one in run.texts.items() if tag not in gone},
            )
            found = diagnose(fewer, {rule: RULES[rule]()}).findings
            if found and _says_the_same(found[0], wanted):
                run = fewer
    return run


def _write(series: Series, digits: int) -> list[Any]:
    """Steps, as numbers or as first step and distance, and values."""
    steps = series.steps.tolist()
    apart = {*np.diff(steps).tolist()}
    values = [float(f"{value:.{digits}g}") if math.isfinite(value) else str(value) for value in series.values]
    return [[steps[0], apart.pop()] if len(apart) == 1 else steps, values]


def read(written: Stored) -> Run:
    """Returns the run of stored evidence."""
    scalars = {}
    for tag, (steps, numbers) in written["scalars"].items():
        values = np.array([float(number) for number in numbers])
        at = np.array(steps) if len(steps) == len(values) else steps[0] + steps[1] * np.arange(len(values))
        scalars[tag] = Series(at.astype(np.int64), values, at.astype(np.float64))
    texts = {tag: Texts(np.array([step]), (text,), np.zeros(1)) for tag, (step, text) in written["texts"].items()}
    return Run(scalars, texts=texts)


def read_evidence() -> dict[str, Stored]:
    return dict(json.loads(EVIDENCE.read_text(encoding="utf-8"))) if EVIDENCE.exists() else {}


def record(rules: Iterable[str]) -> None:
    """Trains the runs of some rules and stores their evidence."""
    import finding_runs

    evidence = read_evidence()
    with tempfile.TemporaryDirectory() as folder:
        for rule in rules:
            evidence[rule] = stored(rule, finding_runs.train(rule, Path(folder)), finding_runs.title(rule))
            print(f"{rule}: {finding_of(rule, read(evidence[rule])).means}", flush=True)
    lines = [
        f"{json.dumps(rule)}: {json.dumps(evidence[rule], separators=(',', ':'))}" for rule in RULES if rule in evidence
    ]
    EVIDENCE.parent.mkdir(exist_ok=True)
    EVIDENCE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


# -- charts ------------------------------------------------------------------------------------------------------------


def is_check(rule: str) -> bool:
    return RULES[rule].code.startswith("TBX-WIRE")


def drawn(rule: str, finding: Finding, run: Run) -> list[str]:
    """Returns the tags of a rule's chart."""
    tags = [tag for tag in TEXTS[rule].chart.tags or finding.tags if tag in run.scalars][:_MOST_DRAWN]
    if not is_check(rule):
        return tags
    loss = TRAIN_LOSS.first(run)
    checks = [tag for tag in run.scalars if tag.startswith("wiring/")]
    return [loss[0], *finding.tags] if loss else checks


def beside(rule: str, finding: Finding, run: Run) -> list[str]:
    """Returns the tags that a rule's chart shows in grey: those of the same kind."""
    prefixes, others = TEXTS[rule].chart.beside, {*drawn(rule, finding, run), *finding.tags}
    kind = finding.tags[0].rpartition("/")[2] if finding.tags[0].endswith("_share") else ""
    found = [tag for tag in run.scalars if prefixes and tag.startswith(prefixes) and tag not in others]
    found = [tag for tag in found if tag.endswith(kind) and not tag.endswith("/total")]
    apart = max(1, math.ceil(len(found) / _MOST_BESIDE))
    return found[::apart]


def draw(rule: str, written: Stored) -> str:
    """Returns a chart as SVG: the evidence of a finding, and the step from which it holds."""
    run = read(written)
    finding = finding_of(rule, run)
    draw_into = _draw_checks if is_check(rule) else _draw_series
    return svg(rule, f"{finding.code} {rule}", lambda figure: draw_into(rule, finding, run, figure))


def svg(name: str, title: str, draw_into: Callable[[Any], None]) -> str:
    """Returns a small figure as SVG: the same for the same numbers, with its text as text."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = pyplot.figure(figsize=(6.4, 2.4), layout="constrained")
        draw_into(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
        pyplot.close(figure)
    return _shorter(file.getvalue())


def _shorter(svg: str) -> str:
    """Rounds the coordinates and leaves out comments and indentation."""
    svg = re.sub(r"\s*<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _NUMBER.sub(lambda found: f"{float(found[0]):.1f}", tag[0]), svg)
    return "\n".join(line.strip() for line in svg.splitlines()) + "\n"


def _draw_series(rule: str, finding: Finding, run: Run, figure: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes, chart = figure.subplots(), TEXTS[rule].chart
    for tag in beside(rule, finding, run):
        _line(axes, tag, run, chart, _GREY)
    for tag, colour in zip(drawn(rule, finding, run), _COLOURS, strict=False):
        _line(axes, tag, run, chart, colour)
    axes.set_yscale(chart.scale)
    if chart.scale == "log":
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
    lowest = min(np.nanmin(run.scalars[tag].values) for tag in drawn(rule, finding, run))
    if chart.scale == "linear" and not chart.relative and lowest >= 0:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("divided by its first value" if chart.relative else "")
    _mark(axes, finding)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_checks(rule: str, finding: Finding, run: Run, figure: Any) -> None:
    names = drawn(rule, finding, run)
    if training_loss(run) is None and not TRAIN_LOSS.first(run):  # before the training
        axes = figure.subplots()
        numbers = [float(run.scalars[tag].values[-1]) for tag in names]
        colours = [_COLOURS[1] if tag in finding.tags else _GREY for tag in names]
        axes.barh([tag.removeprefix("wiring/") for tag in names], numbers, color=colours)
        axes.set_xlabel("number that the check found")
        return
    loss = run.scalars[names[0]]
    last = int(loss.steps[-1])
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    _line(top, names[0], run, Chart(), _COLOURS[0])
    for tag in names[1:]:
        series = run.scalars[tag]
        is_wrong = series.values > 0
        steps, values = series.steps[is_wrong], series.values[is_wrong]
        nothing = np.full(len(steps), np.nan)  # one path with gaps is shorter than many bars
        x, y = np.stack([steps, steps, nothing], 1).ravel(), np.stack([0 * values, values, nothing], 1).ravel()
        bottom.plot(x, y, color=_COLOURS[1], linewidth=3, solid_capstyle="butt", label=tag)
    bottom.set_ylim(bottom=0)
    bottom.set_xlim(0, 1.02 * last)
    if not np.isfinite(loss.values).any():
        top.text(0.5, 0.5, "every point is NaN", transform=top.transAxes, ha="center")
    elif np.nanmin(loss.values) >= 0:
        top.set_ylim(bottom=0)
    bottom.set_xlabel("step")
    for axes in (top, bottom):
        _mark(axes, finding, is_named=axes is top)
    figure.legend(fontsize=7, frameon=False, loc="outside upper right", ncols=2)


def label_of(tag: str) -> str:
    return tag if len(tag) < 42 else f"{tag[:14]}...{tag[-24:]}"


def _line(axes: Any, tag: str, run: Run, chart: Chart, colour: str) -> None:
    series = run.scalars[tag]
    values = np.where(np.isfinite(series.values), series.values, np.nan)
    if chart.relative and values[0]:
        values = values / values[0]
    axes.plot(
        series.steps,
        values,
        color=colour,
        linewidth=1.4,
        label=label_of(tag),
        marker="o" if len(values) < 12 else "",
        markersize=3,
    )


def _mark(axes: Any, finding: Finding, *, is_named: bool = True) -> None:
    """Marks the step from which the finding holds."""
    step = finding.steps[0]
    axes.axvline(step, color="#b91c1c", linewidth=1, linestyle=(0, (4, 3)))
    if is_named:
        axes.annotate(
            f" step {step}", (step, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8, color="#b91c1c"
        )


# -- the page ----------------------------------------------------------------------------------------------------------


def printed(rule: str, written: Stored) -> str:
    """Returns a finding as `tbx-callbacks doctor` prints it."""
    run = read(written)
    finding = finding_of(rule, run)
    end = Verdict("problems", 1, 1, "END")
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False)
    with_steps = bool(run.last_step)
    print_diagnosis(DiagnosedRun("run", "run", run, Diagnosis((finding,), (), end)), console, has_steps=with_steps)
    lines = [line.rstrip()[2:] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    return "\n".join(lines[1 : lines.index("END")])


def anchor(rule: str) -> str:
    return f"{RULES[rule].code} {rule}".lower().replace(" ", "-")


def summary(rule: str | type[Rule]) -> str:
    cls = RULES[rule] if isinstance(rule, str) else rule
    return " ".join((cls.__doc__ or "").strip().partition("\n\n")[0].split())


def _linked(metric: str) -> str:
    """Returns the words for a metric, with a link to its section."""
    name = re.split("[,:]", metric)[0]
    return f"[{name}](metrics.md#{name}){metric.removeprefix(name)}" if name in METRICS else metric


def section(rule: str, written: Stored) -> str:
    """Returns the section of a rule."""
    cls, text = RULES[rule], TEXTS[rule]
    finding = finding_of(rule, read(written))
    run = read(written)
    shown = ", ".join(drawn(rule, finding, run)[:2])
    has_steps = not is_check(rule) or TRAIN_LOSS.first(run)
    marked = f"step {finding.steps[0]} marked" if has_steps else "and other checks"
    metrics = "; ".join(dict.fromkeys(_linked(need.metric) for need in cls.needs))
    options = ", ".join(f"`{name}: {value:g}`" for name, value in thresholds(rule).items())
    parts = [
        f"## {cls.code} {rule}",
        f"{summary(rule)} {text.meaning}",
        f"**Reported when:** {text.when.format(**thresholds(rule))}",
        f"Reads {metrics}." + (f" Thresholds: {options}." if options else ""),
        f"**A run with it:** {written['title']}.",
        f"```text\n{printed(rule, written)}\n```",
        f"![Chart: {shown}, {marked}](findings/{rule}.svg)",
        f"**Fix:** {finding.advice}",
        f"```python\n{text.fix}\n```" if text.fix else "",
    ]
    return "\n\n".join(part for part in parts if part)


def link(rule: str) -> str:
    return f"[{rule}](#{anchor(rule)})"


def question(symptom: str) -> list[str]:
    return [f"[FAQ](faq.md#{QUESTIONS[symptom]})"] if symptom in QUESTIONS else []


def page(evidence: Mapping[str, Stored]) -> str:
    """Returns the whole page."""
    assert QUESTIONS.keys() <= SYMPTOMS.keys()
    symptoms = [
        f"| {symptom} | {', '.join([*map(link, rules), *question(symptom)])} |" for symptom, rules in SYMPTOMS.items()
    ]
    by_family = {family: [rule for rule in RULES if RULES[rule].code.split("-")[1] == family] for family in FAMILIES}
    families = [f"| {FAMILIES[family]} | {', '.join(map(link, rules))} |" for family, rules in by_family.items()]
    intro = (
        f"The doctor knows {len(RULES)} findings. Look up what you see in the first table, or the name of a"
        " finding in the"
        " second one. Each section tells what the finding means, when it is reported, and how to fix it."
        " [Diagnosis](diagnosis.md) explains the command, the thresholds and how to change them, and how"
        " often the findings"
        " are right."
    )
    about = (
        "The text of each example is what `tbx-callbacks doctor` prints, and its chart shows the numbers"
        " that the rule read."
        " All examples are real runs of small models on a CPU, with one fault each."
        " `python docs/generate_findings.py --train` trains them again. A red line marks the first step of the finding;"
        " grey lines are other layers."
    )
    head = [
        "# Findings",
        "[简体中文](zh/findings.md)",
        "<!-- Written by docs/generate_findings.py: change docs/finding_texts.py instead. -->",
        intro,
        "\n".join(["| what you see | findings, the likeliest first |", "|---|---|", *symptoms]),
        "\n".join(["| group | findings |", "|---|---|", *families]),
        about,
    ]
    sections = [section(rule, evidence[rule]) for rules in by_family.values() for rule in rules]
    return "\n\n".join([*head, *sections]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--train", nargs="*", metavar="RULE", help="train the runs of these rules again; default: all")
    names = parser.parse_args().train
    if names is not None:
        record(names or RULES)
    evidence = read_evidence()
    for rule in RULES:
        (CHARTS / f"{rule}.svg").write_text(draw(rule, evidence[rule]), encoding="utf-8")
    PAGE.write_text(page(evidence), encoding="utf-8")


if __name__ == "__main__":
    main()
