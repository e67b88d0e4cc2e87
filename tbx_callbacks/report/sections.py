"""Which figures a report has, in which sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import plotly.graph_objects as go

from tbx_callbacks import tags
from tbx_callbacks.report.distributions import histogram_families, histogram_map
from tbx_callbacks.report.heatmaps import families, heat_map
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.line_charts import LINES, LineChart
from tbx_callbacks.report.line_figures import line_chart, loss_chart
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.predictions import curves
from tbx_callbacks.runs.series import Run

HEATS = {tags.GRAD_NORM: "Gradient norm", tags.UPDATE_RATIO: "Update ratio", tags.WEIGHT_NORM: "Weight norm"}
_TITLES = {
    tags.GRAD_NORM_CLIPPED: "Gradient norm after clipping",
    tags.UPDATE_NORM: "Update norm",
    tags.NONFINITE_GRADIENTS: "NaN and Inf in gradients",
    tags.NONFINITE_WEIGHTS: "NaN and Inf in weights",
    tags.WEIGHTS: "Weights",
    tags.GRADS: "Gradients",
    tags.UPDATES: "Updates",
    tags.ACTIVATIONS: "Activations",
}
_MOST_OTHERS = 24
_DULL = ("/epoch", "runtime", "per_second", "total_flos", "steps_per_s")


@dataclass(frozen=True)
class Section:
    """Figures that belong together; `more` are shown when the reader asks for them. `wide` ones fill the page."""

    id: str
    title: str
    about: str = ""
    figures: dict[str, go.Figure] = field(default_factory=dict)
    more: dict[str, go.Figure] = field(default_factory=dict)
    wide: frozenset[str] = frozenset()

    @property
    def columns(self) -> str:
        """How many figures are side by side where there is room."""
        return "two" if len(self.figures.keys() - self.wide) in (1, 2, 4) else "three"


def sections(subjects: Sequence[LoadedRun]) -> list[Section]:
    """The sections that have something to show."""
    heats = {key: heat_map(subjects, key, title) for key, title in HEATS.items()}
    others = dict.fromkeys(key for subject in subjects for key in families(subject.run) if key not in HEATS)
    more = {key: heat_map(subjects, key, _title(key)) for key in others}
    found = [
        Section(
            "training", "Training", "", _lines(subjects, "loss", "scores", "learning_rate"), {}, frozenset({"loss"})
        ),
        Section("gradients", "Gradients", "", _lines(subjects, "gradient_norm", "clip")),
        Section(
            "layers",
            "Layer by step",
            "Depth from top to bottom. Red: NaN or Inf; grey: exactly 0.",
            _present(heats),
            _present(more),
            frozenset({*heats, *more}),
        ),
        _histograms(subjects),
        Section("health", "Numerical health", "", _lines(subjects, "nonfinite", "amp", "skipped", "optimizer_state")),
        Section(
            "speed",
            "Speed and memory",
            "",
            _lines(subjects, "throughput", "tokens", "step_time", "memory", "monitor_share"),
        ),
        Section("predictions", "Predictions", "", curves(subjects)),
        Section("others", "Everything else", "", _others(subjects)),
    ]
    return [section for section in found if section.figures or section.more]


def _lines(subjects: Sequence[LoadedRun], *names: str) -> dict[str, go.Figure]:
    made = {}
    for name in names:
        figure = (loss_chart if name == "loss" else line_chart)(subjects, LINES[name])
        if figure is not None and not (name == "nonfinite" and _all_zero(figure)):
            made[name] = figure
    return made


def _all_zero(figure: go.Figure) -> bool:
    return all((trace.y == 0).all() for trace in figure.data)


def _present(figures: dict[str, go.Figure | None]) -> dict[str, go.Figure]:
    return {name.replace("/", "_"): figure for name, figure in figures.items() if figure is not None}


def _histograms(subjects: Sequence[LoadedRun]) -> Section:
    by_family = histogram_families(subjects)
    number = sum(one is not None for layers in by_family.values() for runs in layers.values() for one in runs)
    figures = {
        f"histogram_{family}": histogram_map(subjects, layers, _title(family), number=number)
        for family, layers in by_family.items()
    }
    about = "Where a layer's values lie over time; lines: median, and what holds 90 %."
    return Section("histograms", "Histograms over time", about, figures)


def _others(subjects: Sequence[LoadedRun]) -> dict[str, go.Figure]:
    """Scalars that no other chart shows, one chart each; those that were logged once are in a table."""
    others: dict[str, None] = {}
    for subject in subjects:
        shown = {tag for chart in LINES.values() for tag in chart.choice(subject.run)}
        shown |= {tags.TRAIN_LEARNING_RATE, tags.TRAIN_GRAD_NORM} if len(shown) > 2 else set()
        of_layers = tuple(f"{family.partition('/')[0]}/" for family in families(subject.run))
        for tag, series in subject.run.scalars.items():
            if tag not in shown and len(series) > 1 and not tag.startswith(of_layers) and not tag.endswith(_DULL):
                others[tag] = None
    charts = {f"other_{n}": LineChart(plain(tag), partial(_only, tag)) for n, tag in enumerate(others)}
    made = {name: line_chart(subjects, chart) for name, chart in list(charts.items())[:_MOST_OTHERS]}
    return {name: figure for name, figure in made.items() if figure is not None}


def _only(tag: str, run: Run) -> dict[str, str]:
    return {tag: tag} if tag in run.scalars else {}


def _title(family: str) -> str:
    return _TITLES.get(family) or plain(family.replace("_", " ").replace("/", ": ").capitalize())
