"""Arranges the figures of a report in sections."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import plotly.graph_objects as go

from tbx_callbacks import tags
from tbx_callbacks.report.charts import LINES, LineChart
from tbx_callbacks.report.distributions import histogram_families, histogram_map
from tbx_callbacks.report.efficiency import about_batches
from tbx_callbacks.report.examples import Table, data_maps, row_tables
from tbx_callbacks.report.heatmaps import heat_map
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.layer_families import Families, families
from tbx_callbacks.report.line_drawing import line_chart, loss_chart
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.predictions import PredictionView, curves, views
from tbx_callbacks.rules.required_series import LEARNING_RATE
from tbx_callbacks.runs.series import Run

HEATS = {
    tags.GRAD_NORM: "Gradient norm",
    tags.UPDATE_RATIO: "Update ratio",
    tags.WEIGHT_NORM: "Weight norm",
    tags.DRIFT: "Distance from the initial weights, relative to their norm",
}
_ADAPTERS = {
    tags.LORA_UPDATE: "Norm of the update, relative to the frozen weight",
    tags.LORA_STABLE_RANK: "Stable rank of the update",
}
_MATRICES = {
    tags.SPECTRAL_NORM: "Largest singular value",
    tags.SPECTRAL_STABLE_RANK: "Stable rank",
}
_TITLES = {
    tags.GRAD_NORM_CLIPPED: "Gradient norm after clipping",
    tags.UPDATE_NORM: "Update norm",
    tags.MOVED_SHARE: "Share of elements that moved since the start",
    tags.NONFINITE_GRADIENTS: "NaN and Inf in gradients",
    tags.NONFINITE_WEIGHTS: "NaN and Inf in weights",
    tags.WEIGHTS: "Weights",
    tags.GRADS: "Gradients",
    tags.UPDATES: "Updates",
    tags.ACTIVATIONS: "Activations",
}
_MAX_OTHERS = 24
_MAX_HISTOGRAMS = 600  # the page holds each of them
_LONGEST_ID = 80
_IGNORED_SUFFIXES = ("/epoch", "runtime", "per_second", "total_flos", "steps_per_s")


@dataclass(frozen=True)
class Section:
    """Figures and tables on one topic. `more` are collapsed by default. `wide` ones fill the page width."""

    id: str
    title: str
    about: str = ""
    figures: dict[str, go.Figure] = field(default_factory=dict)
    more: dict[str, go.Figure] = field(default_factory=dict)
    wide: frozenset[str] = frozenset()
    tables: tuple[Table, ...] = ()
    views: tuple[PredictionView, ...] = ()

    @property
    def columns(self) -> str:
        """Number of columns (`two` or `three`), where the screen is wide enough."""
        return "two" if len(self.figures.keys() - self.wide) in (1, 2, 4) else "three"


def sections(loaded_runs: Sequence[LoadedRun]) -> list[Section]:
    """The sections that contain at least one figure, table or view of predictions."""
    with np.errstate(all="ignore"):  # absurd numbers in a file are no warnings of ours
        return _sections(loaded_runs)


def _sections(loaded_runs: Sequence[LoadedRun]) -> list[Section]:
    by_run = [families(loaded_run.run) for loaded_run in loaded_runs]
    main_maps = {key: heat_map(loaded_runs, by_run, key, title) for key, title in HEATS.items()}
    other_families = dict.fromkeys(
        key for run_families in by_run for key in run_families if key not in HEATS | _ADAPTERS | _MATRICES
    )
    more_maps = {key: heat_map(loaded_runs, by_run, key, _title(key)) for key in list(other_families)[:_MAX_OTHERS]}
    about_layers = "Layers in model order, from top to bottom. Red: NaN or Inf; grey: exactly 0."
    if (left_out := len(other_families) - len(more_maps)) > 0:
        about_layers += f" {left_out:,} more kinds of numbers are left out. `tbx-callbacks view` shows all."
    all_sections = [
        Section(
            "training", "Training", "", _lines(loaded_runs, "loss", "scores", "learning_rate"), {}, frozenset({"loss"})
        ),
        Section("gradients", "Gradients", "", _lines(loaded_runs, "gradient_norm", "clip")),
        Section(
            "layers",
            "Layers over time",
            about_layers,
            _present(main_maps),
            _present(more_maps),
            frozenset({*main_maps, *more_maps}),
        ),
        _maps(
            loaded_runs,
            by_run,
            _ADAPTERS,
            "adapters",
            "LoRA adapters",
            "What each adapter adds to its frozen weight. Stable rank 1: one direction does all of it. Near the rank of"
            " the adapter: it uses all directions.",
        ),
        _maps(
            loaded_runs,
            by_run,
            _MATRICES,
            "matrices",
            "Singular values of weights",
            "The largest singular value bounds how much a layer can enlarge its input. The stable rank says how many"
            " directions share the weight.",
        ),
        _histograms(loaded_runs),
        Section(
            "health", "Numerical health", "", _lines(loaded_runs, "nonfinite", "amp", "skipped", "optimizer_state")
        ),
        Section(
            "speed",
            "Speed and memory",
            "",
            _lines(
                loaded_runs,
                "throughput",
                "tokens",
                "step_time",
                "step_parts",
                "other_parts",
                "time_left",
                "memory",
                "monitor_share",
            ),
        ),
        Section("batches", "Batches", about_batches(loaded_runs), _lines(loaded_runs, "noise_scale", "padding")),
        Section(
            "predictions",
            "Predictions",
            "",
            curves(loaded_runs) | _lines(loaded_runs, "calibration", "temperature"),
            views=views(loaded_runs),
        ),
        _examples(loaded_runs),
        _others(loaded_runs),
    ]
    return [section for section in all_sections if section.figures or section.more or section.tables or section.views]


def _examples(loaded_runs: Sequence[LoadedRun]) -> Section:
    maps = data_maps(loaded_runs)
    figures = maps | _lines(loaded_runs, "groups")
    return Section("examples", "Training rows", "", figures, {}, frozenset(maps), row_tables(loaded_runs))


def _lines(loaded_runs: Sequence[LoadedRun], *names: str) -> dict[str, go.Figure]:
    drawn = {}
    for name in names:
        figure = (loss_chart if name == "loss" else line_chart)(loaded_runs, LINES[name])
        if figure is not None and not (name == "nonfinite" and _all_zero(figure)):
            drawn[name] = figure
    return drawn


def _all_zero(figure: go.Figure) -> bool:
    """Whether every value of a chart's lines is zero; markers of findings and alerts do not count."""
    return all((np.asarray(trace.y) == 0).all() for trace in figure.data if (trace.meta or {}).get("role") is None)


def _present(figures: dict[str, go.Figure | None]) -> dict[str, go.Figure]:
    return _by_id({name: figure for name, figure in figures.items() if figure is not None})


def _by_id(figures: Mapping[str, go.Figure]) -> dict[str, go.Figure]:
    """The figures by names that are valid and different as ids in a page, whatever the tags contain."""
    by_id: dict[str, go.Figure] = {}
    for name, figure in figures.items():
        base = re.sub(r"[^\w.-]", "_", name[:_LONGEST_ID], flags=re.ASCII)
        ids = (base if n == 1 else f"{base}_{n}" for n in itertools.count(1))
        by_id[next(id_ for id_ in ids if id_ not in by_id)] = figure
    return by_id


def _maps(
    loaded_runs: Sequence[LoadedRun],
    by_run: Sequence[Families],
    titles: Mapping[str, str],
    section_id: str,
    title: str,
    about: str,
) -> Section:
    """A section of wide heat maps."""
    figures = _present({key: heat_map(loaded_runs, by_run, key, heading) for key, heading in titles.items()})
    return Section(section_id, title, about, figures, {}, frozenset(figures))


def _histograms(loaded_runs: Sequence[LoadedRun]) -> Section:
    by_family = histogram_families(loaded_runs)
    number = sum(
        histograms is not None for layers in by_family.values() for runs in layers.values() for histograms in runs
    )
    about = "Distribution of the values of each layer over time. Lines: median and 90 % interval."
    if number > _MAX_HISTOGRAMS:
        most = max(1, _MAX_HISTOGRAMS // (len(by_family) * len(loaded_runs)))
        by_family = {family: dict(itertools.islice(layers.items(), most)) for family, layers in by_family.items()}
        about += f" The first {most} layers of each kind. `tbx-callbacks view` shows all."
    figures = {
        f"histogram_{family}": histogram_map(loaded_runs, layers, _title(family), num_histograms=number)
        for family, layers in list(by_family.items())[:_MAX_HISTOGRAMS]
    }
    return Section("histograms", "Histograms over time", about, _by_id(figures))


def _others(loaded_runs: Sequence[LoadedRun]) -> Section:
    """Scalars that no other chart shows, one chart each. Scalars with one point are in a table instead."""
    others: dict[str, None] = {}
    for loaded_run in loaded_runs:
        shown_tags = {tag for chart in LINES.values() for tag in chart.choice(loaded_run.run)}
        shown_tags |= LEARNING_RATE.all(loaded_run.run).keys()  # equal ones are one line of their chart
        shown_tags |= {tags.TRAIN_LEARNING_RATE, tags.TRAIN_GRAD_NORM} if len(shown_tags) > 2 else set()
        layer_prefixes = tuple(f"{family.partition('/')[0]}/" for family in families(loaded_run.run))
        for tag, series in loaded_run.run.scalars.items():
            if (
                tag not in shown_tags
                and len(series) > 1
                and not tag.startswith(layer_prefixes)
                and not tag.endswith(_IGNORED_SUFFIXES)
            ):
                others[tag] = None
    charts = {f"other_{n}": LineChart(plain(tag), partial(_only, tag)) for n, tag in enumerate(others)}
    drawn = {name: line_chart(loaded_runs, chart) for name, chart in list(charts.items())[:_MAX_OTHERS]}
    more = len(charts) - len(drawn)
    about = (
        f"The first {_MAX_OTHERS} metrics; {more:,} more are left out. `tbx-callbacks view` shows all." if more else ""
    )
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    return Section("others", "Other metrics", about if more else "", figures)


def _only(tag: str, run: Run) -> dict[str, str]:
    return {tag: tag} if tag in run.scalars else {}


def _title(family: str) -> str:
    return _TITLES.get(family) or plain(family.replace("_", " ").replace("/", ": ").capitalize())
